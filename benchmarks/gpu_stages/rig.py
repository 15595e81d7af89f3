"""What the three GPU scripts share: stages under a time budget, and a report that is always whole.

The report is written after each stage, so that a machine that is taken away leaves what was done.
A stage that fails, or for which no time is left, is noted; the others go on.
"""

import argparse
import json
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks.gpu_stages.machine import machine

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HANSANG_PROGRESS_S", "1e9")

ROOT = Path(__file__).resolve().parents[2]
BUDGET_S = {"cuda": 520.0, "cpu": 3600.0}
"""A script's time, compilation and all: under nine minutes on a GPU. Rehearsals may take more."""

_GRACE_S = 10.0
_STARTED_S = time.monotonic()

Stage = Callable[[], dict[str, Any]]
Share = tuple[str, Stage, float]
"""A stage's name, what it does, and how many seconds on CUDA are kept for it."""


_kept: list[dict[str, Any]] = []


def kept_rows() -> list[dict[str, Any]]:
    """Return a list for a stage's rows; what is in it is told even if the stage is broken off."""
    _kept.clear()
    return _kept


class OutOfTimeError(BaseException):
    """The budget is used up in the middle of a stage; compilers, too, let it through."""


def options(description: str | None) -> argparse.Namespace:
    """Read `--device`, `--out` and `--budget-s`."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda",
        help="cpu rehearses every stage at small sizes; its figures mean nothing",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, help="folder of the report; default benchmarks/results")
    parser.add_argument("--budget-s", type=float,
                        help=f"ends by then; default {BUDGET_S['cuda']:g}, of a rehearsal"
                        f" {BUDGET_S['cpu']:g}")  # fmt: skip
    parser.add_argument(
        "--only", default="", help="stages to run, by name with commas; default: all of them"
    )
    chosen = parser.parse_args()
    chosen.budget_s = chosen.budget_s or BUDGET_S[chosen.device]
    if chosen.out is None:
        rehearsal = ROOT / "build" / "rehearsal"
        chosen.out = ROOT / "benchmarks" / "results" if chosen.device == "cuda" else rehearsal
    if chosen.device == "cpu":
        rehearse()
    return chosen


def rehearse() -> None:
    """Replace the compiler, which takes minutes on a CPU, by its front end alone."""
    import torch

    compiled = torch.compile

    def quick(model: Any, **settings: Any) -> Any:
        return compiled(model, backend="aot_eager", dynamic=settings.get("dynamic"))

    torch.compile = quick  # type: ignore[assignment]


class Report:
    """Runs stages and keeps what they found."""

    def __init__(self, kind: str, chosen: argparse.Namespace) -> None:
        """Begin the report `kind` of a device."""
        self.device: str = chosen.device
        self._only = {name for name in chosen.only.split(",") if name}
        self._ends_s = _STARTED_S + chosen.budget_s
        self._slower = BUDGET_S[self.device] / BUDGET_S["cuda"]
        self.data: dict[str, Any] = {"kind": kind, "machine": machine(self.device), "stages": {}}
        gpu = re.sub(r"[^a-z0-9]+", "-", self.data["machine"]["gpu"].lower()).strip("-")
        # Some stages alone never take the place of a whole report.
        part = "-part" if self._only else ""
        self.path = chosen.out / f"{kind}-{gpu}{part}.json"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Whatever hangs beyond Python's reach ends here: the report is written already.
        watchdog = threading.Timer(self.left_s + _GRACE_S, _give_up)
        watchdog.daemon = True
        watchdog.start()
        signal.signal(signal.SIGALRM, _out_of_time)
        print(json.dumps(self.data["machine"], indent=1), flush=True)

    @property
    def left_s(self) -> float:
        """Return the seconds that are left."""
        return self._ends_s - time.monotonic()

    def run(self, *groups: Sequence[Share]) -> None:
        """Run stages in order, groups by importance.

        Each may take its share of the time and what those before it spared, as long as the shares
        of those of its group that come after it are left.
        """
        for group in groups:
            left = [share for share in group if self.wants(share[0])]
            while left:
                name, work, share_s = left.pop(0)
                spared_s = self.left_s / self._slower - sum(share[2] for share in left)
                self.stage(name, work, most_s=max(share_s, spared_s))

    def wants(self, name: str) -> bool:
        """Return whether a stage is to run: all are, unless some were chosen by name."""
        return not self._only or name in self._only

    def stage(
        self, name: str, work: Stage, *, needs_s: float = 5.0, most_s: float = 180.0
    ) -> dict[str, Any] | None:
        """Run a stage if there is time for it; return what it found, None if it did not end well.

        Args:
            name: In the report.
            work: What it does; an `AssertionError` says what is wrong.
            needs_s: With less time than that it is not begun.
            most_s: It is broken off then, for the sake of the others.
        """
        if not self.wants(name):
            return None
        started_s = time.monotonic()
        most_s *= self._slower
        entry: dict[str, Any] = {"status": "skipped: no time was left"}
        if self.left_s > needs_s:
            self.data["stages"][name] = {"status": "begun, and never ended", "took_s": 0}
            self.write()
            kept_rows()
            # Again, if somebody caught it.
            signal.setitimer(signal.ITIMER_REAL, max(min(self.left_s, most_s), 1.0), 10.0)
            try:
                entry = {"status": "ok", **work()}
                entry |= {"rows": list(entry["rows"])} if "rows" in entry else {}
            except OutOfTimeError:
                entry = {"status": "skipped: it took longer than there was time"}
                entry |= {"rows": list(_kept)} if _kept else {}
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                traceback.print_exc()
                place = traceback.format_exc().splitlines()[-12:]
                entry = {"status": f"failed: {type(error).__name__}: {error}", "where": place}
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            give_back()
        entry["took_s"] = round(time.monotonic() - started_s, 2)
        self.data["stages"][name] = entry
        self.write()
        shown = {key: value for key, value in entry.items() if key not in ("where", "rows")}
        print(f"{name}: {json.dumps(shown, ensure_ascii=False)}", flush=True)
        return entry if entry["status"] == "ok" else None

    def write(self) -> None:
        """Write the report, as JSON and as a table."""
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.data, indent=1, ensure_ascii=False) + "\n", "utf-8")
        temporary.replace(self.path)
        self.path.with_suffix(".md").write_text(table(self.data), "utf-8")

    def end(self) -> None:
        """Say what is there, and exit: 0 if all went well, 1 if a stage failed or was skipped."""
        stages = self.data["stages"]
        bad = [f"{name}: {entry['status']}" for name, entry in stages.items()
               if entry["status"] != "ok"]  # fmt: skip
        bad += [f"{name}: there is no such stage" for name in sorted(self._only - set(stages))]
        print(table(self.data))
        print(f"report: {self.path}")
        for line in bad:
            print(f"not ok: {line}", file=sys.stderr)
        took_s = time.monotonic() - _STARTED_S
        print(
            f"{len(stages) - len(bad)} of {len(stages)} stages are ok, in {took_s:.0f} s",
            flush=True,
        )
        # Threads of onnxruntime and servers are not waited for.
        os._exit(1 if bad else 0)


def _give_up() -> None:
    """End this process and those that it started: they would load the device for the next."""
    tasks = Path("/proc/self/task").iterdir()
    children = [int(pid) for task in tasks for pid in (task / "children").read_text().split()]
    for number in (signal.SIGTERM, signal.SIGKILL):
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(child, number)
        time.sleep(1)
    os._exit(3)


def _out_of_time(number: int, frame: FrameType | None) -> None:
    raise OutOfTimeError


def table(data: dict[str, Any]) -> str:
    """Return a report as Markdown."""
    about = data["machine"]
    lines = [
        f"# {data['kind']} on {about['gpu']}, commit {about['commit']}",
        "",
        ", ".join(f"{name} {about[name]}" for name in ("python", "torch", "onnxruntime", "driver")),
        "",
    ]
    for name, entry in data["stages"].items():
        lines.append(f"## {name}: {entry['status']} ({entry['took_s']} s)")
        lines.append("")
        rows = entry.get("rows") or []
        if rows:
            keys = list(dict.fromkeys(key for row in rows for key in row))
            lines.append(f"| {' | '.join(keys)} |")
            lines.append(f"|{' --- |' * len(keys)}")
            lines += [f"| {' | '.join(str(row.get(key, '')) for key in keys)} |" for row in rows]
            lines.append("")
        for key, value in entry.items():
            if key not in ("status", "took_s", "rows", "where"):
                lines.append(f"- {key}: {value}")
        lines.append("")
    return "\n".join(lines)


def give_back() -> None:
    """Give the device's memory back between stages."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def sync(device: str) -> None:
    """Wait until the device is done."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def rate(step: Callable[[], object], device: str, *, seconds: float, warm: int = 3) -> float:
    """Return steps a second, over about `seconds`, after some that warm up."""
    for _ in range(warm):
        step()
    sync(device)
    started_s = time.perf_counter()
    step()
    sync(device)
    count = max(int(seconds / max(time.perf_counter() - started_s, 1e-6)), 2)
    started_s = time.perf_counter()
    for _ in range(count):
        step()
    sync(device)
    return count / (time.perf_counter() - started_s)
