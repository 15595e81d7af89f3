"""Runs stages in processes of their own, under budgets, and keeps a report that is always whole.

    stages ─► a process for each group of steps ─► lines of JSON ─► report (.json and .md)

A step that takes longer than it may is killed with its process, and the steps after it go on in a
new one: a fault or a hang costs one step. This process imports nothing that could hang.
"""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.gpu_stages.report import Report
from benchmarks.gpu_stages.steps import SLOWER

ROOT = Path(__file__).resolve().parents[2]
START_S = 60.0
"""How long a process may take until its first step: a cold disk reads torch slowly."""
_ENVIRONMENT = {"PYTHONUNBUFFERED": "1", "ORT_DISABLE_TELEMETRY": "1", "HANSANG_PROGRESS_S": "1e9"}
# Threads wait for each other by spinning, which on few cores takes longer than what they compute.
_REHEARSAL = {"OMP_NUM_THREADS": "1"}
_LOOK_S = 0.1
_LEAST_S = 5.0
"""With less time than that no process is started."""


@dataclasses.dataclass(frozen=True)
class Group:
    """Steps of one module, which run in one process."""

    module: str
    """In benchmarks/gpu_stages/; its `steps(device, work)` returns what does each step."""
    most_s: dict[str, float]
    """The steps in their order, and how many seconds each may take on CUDA."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """Groups that run side by side, and the seconds that they have on CUDA."""

    name: str
    budget_s: float
    groups: tuple[Group, ...]

    def only(self, names: Collection[str]) -> "Stage":
        """Return the stage with none but these steps."""
        groups = (
            Group(group.module, {name: s for name, s in group.most_s.items() if name in names})
            for group in self.groups
        )
        return dataclasses.replace(self, groups=tuple(group for group in groups if group.most_s))

    @property
    def steps(self) -> list[str]:
        """The names of its steps."""
        return [name for group in self.groups for name in group.most_s]


class Rig:
    """Runs stages one after the other, until the time is over."""

    def __init__(self, report: Report, *, device: str, budget_s: float) -> None:
        """Take `budget_s` seconds from now on."""
        self.report = report
        self.device = device
        self.slower = SLOWER[device]
        self._ends_s = time.monotonic() + budget_s

    def run(self, stages: Sequence[Stage]) -> None:
        """Run the stages, the most important first; then the steps that one had no time for."""
        with tempfile.TemporaryDirectory(prefix="gpu-", ignore_cleanup_errors=True) as folder:
            work = Path(folder)
            late = [self._run(stage, work) for stage in stages]
            for stage in late:
                self._run(dataclasses.replace(stage, budget_s=float("inf")), work)
        for stage in stages:
            for name in stage.steps:
                if name not in self.report.steps:
                    none = {"status": "skipped: no time was left", "took_s": 0.0}
                    self.report.add(stage.name, name, none)

    def _run(self, stage: Stage, work: Path) -> Stage:
        """Run a stage; return it with the steps that it had no time for."""
        ends_s = min(time.monotonic() + stage.budget_s * self.slower, self._ends_s)
        with ThreadPoolExecutor(max(len(stage.groups), 1)) as threads:
            late = threads.map(lambda group: self._follow(stage, group, work, ends_s), stage.groups)
            return stage.only([name for names in late for name in names])

    def _follow(self, stage: Stage, group: Group, work: Path, ends_s: float) -> list[str]:
        """Run a group's steps, in a new process whenever one was killed or died.

        Returns the steps that were not begun, for want of time.
        """
        names = list(group.most_s)
        while names and ends_s - time.monotonic() > _LEAST_S:
            names = _Process(self, stage.name, group, names, work).follow(ends_s)
        return names


class _Process:
    """One process that works through steps, and what it has told so far."""

    def __init__(self, rig: Rig, stage: str, group: Group, names: list[str], work: Path) -> None:
        self._rig, self._stage, self._group, self._left = rig, stage, group, list(names)
        self._told_to = Path(tempfile.mkstemp(dir=work, suffix=".jsonl")[1])
        self._read_bytes = 0
        own = Path(tempfile.mkdtemp(dir=work, prefix=f"{group.module}-"))
        command = [
            sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--device", rig.device,
            "--work-through", group.module, "--work", str(own), "--tell", str(self._told_to),
            *names,
        ]  # fmt: skip
        with rig.report.log.open("a") as log:
            # A process group of its own, to kill the servers that it starts with it.
            self._process = subprocess.Popen(
                command, cwd=ROOT, stdout=log, stderr=log, process_group=0,
                env={**os.environ, **_ENVIRONMENT, **(_REHEARSAL if rig.device == "cpu" else {})},
            )  # fmt: skip
        self._ready, self._now, self._rows = False, "", list[dict[str, Any]]()
        self._begun_s = time.monotonic()
        self._until_s = self._begun_s + START_S * rig.slower

    def follow(self, ends_s: float) -> list[str]:
        """Wait for the process, or kill it when a step or the stage takes too long.

        Returns the steps that are left. Of a process that never came to a step, none are.
        """
        why = ""
        try:
            while not why and self._process.poll() is None:
                self._heed_all()
                if time.monotonic() > ends_s:
                    why = "cut off: its stage had no more time"
                elif time.monotonic() > self._until_s:
                    why = "cut off: it took longer than it may"
                else:
                    time.sleep(_LOOK_S)
        finally:
            self._kill()
        if not why:
            self._heed_all()  # what it told between the last look and its end
            why = f"failed: its process died, exit code {self._process.returncode}; see the log"
        if self._now:
            self._end({"status": why})
        elif not self._ready and time.monotonic() < ends_s:
            for name in list(self._left):
                self._begin(name)
                self._end({"status": f"{why}, before its first step"})
        return self._left

    def _heed_all(self) -> None:
        """Read what the process has told since, whole lines alone."""
        with self._told_to.open("rb") as told:
            told.seek(self._read_bytes)
            whole = told.read().rpartition(b"\n")[0]
        for line in whole.splitlines():
            self._heed(json.loads(line))
        self._read_bytes += len(whole) + bool(whole)

    def _heed(self, event: dict[str, Any]) -> None:
        if "ready" in event:
            self._ready = True
        elif "begun" in event:
            self._begin(event["begun"])
        elif "row" in event:
            self._rows.append(event["row"])
            self._add({"status": "running"})
        elif "most_s" in event:
            self._until_s = time.monotonic() + event["most_s"]
        else:
            self._end(event["found"])

    def _begin(self, name: str) -> None:
        self._now, self._rows = name, []
        self._left.remove(name)
        self._begun_s = time.monotonic()
        self._until_s = self._begun_s + self._group.most_s[name] * self._rig.slower
        self._add({"status": "running"})

    def _end(self, found: dict[str, Any]) -> None:
        shown = self._add(found)
        shown = {key: value for key, value in shown.items() if key not in ("where", "rows")}
        print(f"{self._now}: {json.dumps(shown, ensure_ascii=False)}", flush=True)
        self._now = ""
        # Between two steps little happens, but it may hang there, too.
        self._until_s = time.monotonic() + START_S * self._rig.slower

    def _add(self, found: dict[str, Any]) -> dict[str, Any]:
        rows = {"rows": self._rows} if self._rows else {}
        entry = {**rows, **found, "took_s": round(time.monotonic() - self._begun_s, 2)}
        self._rig.report.add(self._stage, self._now, entry)
        return entry

    def _kill(self) -> None:
        """End the process and all that it started; one that hangs in the driver is left behind."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
