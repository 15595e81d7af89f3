"""Serving against its limit and against other servers, in one run, in turns.

    python -m benchmarks.serving --peers .venv-bench --json        (make bench-serving)

Every server has the same ONNX file, the same options of onnxruntime and the same photos, and stands
still while another one is measured. What counts is images per CPU-second of the server's processes:
what else a machine does, and the load itself, are not in it. The limit is our decoding and bare
onnxruntime, one thread on each core, with no server around them.

`--open-loop` sends photos at random times instead, at growing rates, and draws latency against
offered load (PNG).
"""

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import rig
from benchmarks.load import closed, connect, opened
from service.config import num_cores

SIZES = (64, 224)
CALLERS = (1, 8, 32)
PEERS = ("litserve", "mosec", "naive grpc")
OURS = ("hansang fp32", "hansang int8")
LIMIT = "limit"


class Subject:
    """A server in a process group of its own, which can be made to stand still."""

    def __init__(self, name: str, model: Path, size: int, peers: Path | None) -> None:
        """Start it."""
        self.name = name
        self.port = rig.free_port()
        self._folder = tempfile.TemporaryDirectory()
        environment = {**rig.ENVIRONMENT, "OMP_NUM_THREADS": "1"}
        if name in OURS:
            from service.models.repository import ModelStore

            ModelStore(Path(self._folder.name)).publish("food", model)
            command = [
                *(sys.executable, "-m", "hansang", "serve", "--repository", self._folder.name),
                *("--host", "127.0.0.1", "--port", str(self.port), "--device", "cpu"),
                *("--metrics-port", "0", "--reflection", "off"),
                # To its watchdog, standing still looks as if it hung.
                *("--run-timeout-s", "3600"),
            ]
        else:
            environment |= {"MODEL": str(model), "SIZE": str(size), "PORT": str(self.port)}
            environment.pop("PYTHONPATH")
            script = {
                "litserve": "litserve_server", "mosec": "mosec_server", "naive grpc": "naive_grpc",
            }[name]  # fmt: skip
            python = (peers or Path()) / "bin" / "python"
            command = [str(python), str(rig.ROOT / "benchmarks" / "peers" / f"{script}.py")]
            if name == "mosec":
                command += ["--port", str(self.port), "--address", "127.0.0.1"]
                command += ["--timeout", "60000"]  # ms, as the others have
        self._log = (Path(self._folder.name) / "log").open("w+")
        self._start_s = time.monotonic()
        self._process = subprocess.Popen(
            command, env=environment, stdout=self._log, stderr=self._log, start_new_session=True,
            cwd=self._folder.name,
        )  # fmt: skip
        self.startup_s = 0.0

    async def ready(self, photo: bytes, within_s: float = 90) -> None:
        """Wait for the first answer."""
        while time.monotonic() - self._start_s < within_s:
            if self._process.poll() is not None:
                break
            try:
                async with connect(self.name, self.port, 1) as call:
                    await call(photo)
                self.startup_s = time.monotonic() - self._start_s
                return
            except Exception:  # whatever a server does that is not there yet
                await asyncio.sleep(0.05)
        self._log.seek(0)
        raise RuntimeError(f"{self.name} does not answer: {self._log.read()[-2000:]}")

    def rest(self) -> None:
        """Stand still."""
        os.killpg(self._process.pid, signal.SIGSTOP)

    def go(self) -> None:
        """Go on."""
        os.killpg(self._process.pid, signal.SIGCONT)

    def cpu_s(self) -> float:
        """Return the CPU time of its processes."""
        ticks = 0
        for path in self._processes():
            fields = (path / "stat").read_text().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory_mb(self) -> float:
        """Return its memory; what processes share counts once."""
        total = 0
        for path in self._processes():
            text = (path / "smaps_rollup").read_text()
            total += int(text.split("\nPss:")[1].split()[0])
        return total / 1024

    def _processes(self) -> list[Path]:
        found = []
        for path in Path("/proc").iterdir():
            if path.name.isdigit():
                try:
                    session = (path / "stat").read_text().rsplit(")", 1)[1].split()[3]
                except OSError:
                    continue
                if int(session) == self._process.pid:
                    found.append(path)
        return found

    def stop(self) -> None:
        """End it and all of its processes."""
        self.go()
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._log.close()
        self._folder.cleanup()


def limit(model: Path, size: int, photos: list[bytes], seconds: float) -> dict[str, float]:
    """Measure decoding and bare onnxruntime on every core, without a server."""
    from service.models.model import Model
    from service.pixels.preprocessing import preprocess

    loaded = Model(model, device="cpu")
    done = [0] * num_cores()
    end_s = time.monotonic() + seconds

    def work(at: int) -> None:
        while time.monotonic() < end_s:
            batch = [preprocess(photos[each % len(photos)], size) for each in range(32)]
            loaded.predict(np.stack(batch))
            done[at] += 32

    work_s, start_s = time.process_time(), time.monotonic()
    threads = [threading.Thread(target=work, args=(at,)) for at in range(len(done))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    work_s, wall_s = time.process_time() - work_s, time.monotonic() - start_s
    alone = []
    for photo in photos[:20]:
        start_s = time.perf_counter()
        loaded.predict(preprocess(photo, size)[None])
        alone.append(1000 * (time.perf_counter() - start_s))
    return {
        "images_per_s": sum(done) / wall_s,
        "images_per_cpu_s": sum(done) / work_s,
        "p50_ms": statistics.median(alone),
    }


async def one_turn(subject: Subject, callers: int, seconds: float, photos: list[bytes]) -> Any:
    """Measure a server at one concurrency."""
    subject.go()
    try:
        async with connect(subject.name, subject.port, callers) as call:
            await asyncio.gather(*(call(photo) for photo in photos[:callers]))
            cpu_s, start_s = subject.cpu_s(), time.monotonic()
            taken_s = await closed(call, photos, callers, seconds)
            wall_s, cpu_s = time.monotonic() - start_s, subject.cpu_s() - cpu_s
    finally:
        subject.rest()
    return {
        "images_per_s": len(taken_s) / wall_s,
        "images_per_cpu_s": len(taken_s) / max(cpu_s, 0.01),
        "p50_ms": 1000 * rig.percentile(taken_s, 0.5),
        "p99_ms": 1000 * rig.percentile(taken_s, 0.99),
    }


def medians(turns: list[dict[str, float]]) -> dict[str, float]:
    """Return the median of each figure over the turns."""
    return {key: round(statistics.median(turn[key] for turn in turns), 2) for key in turns[0]}


async def measure(
    size: int, names: list[str], peers: Path | None, photos: list[bytes], *, rounds: int,
    seconds: float,
) -> dict[str, Any]:  # fmt: skip
    """Measure every server at one image size, in turns."""
    with ExitStack() as stack:
        models, subjects = start(stack, size, names, peers, photos)
        found: dict[str, Any] = {name: {} for name in names}
        for subject in subjects:
            await subject.ready(photos[0])
            found[subject.name]["startup_s"] = round(subject.startup_s, 2)
            subject.rest()
        turns: dict[tuple[str, int], list[Any]] = {}
        limits = []
        for _ in range(rounds):
            limits.append(limit(models["hansang fp32"], size, photos, seconds))
            for callers in CALLERS:
                for subject in subjects:
                    turn = await one_turn(subject, callers, seconds, photos)
                    turns.setdefault((subject.name, callers), []).append(turn)
        for subject in subjects:
            subject.go()
            found[subject.name]["memory_mb"] = round(subject.memory_mb())
            subject.rest()
        for (name, callers), each in turns.items():
            found[name][str(callers)] = medians(each)
        return {LIMIT: medians(limits), **found}


def start(
    stack: ExitStack, size: int, names: list[str], peers: Path | None, photos: list[bytes]
) -> tuple[dict[str, Path], list[Subject]]:
    """Write the models of one size and start the servers, which stand still in the end."""
    from service.pixels.preprocessing import preprocess
    from training.export.precision import to_int8

    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    fp32 = rig.real_model(folder / "fp32.onnx", image_size=size)
    models = dict.fromkeys(names, fp32)
    if "hansang int8" in names:
        models["hansang int8"] = folder / "int8.onnx"
        images = np.stack([preprocess(photo, size) for photo in photos])
        to_int8(fp32, models["hansang int8"], images)
    subjects = []
    for name in names:
        subjects.append(Subject(name, models[name], size, peers))
        stack.callback(subjects[-1].stop)
    return {"hansang fp32": fp32, **models}, subjects


def ratios(sizes: dict[str, Any], names: list[str]) -> dict[str, float]:
    """Compare: the worst over the sizes, by images per CPU-second of 32 callers."""
    others = [name for name in names if name not in OURS]

    def speed(of: dict[str, Any], name: str) -> float:
        return float(of[name]["32"]["images_per_cpu_s"])

    found: dict[str, list[float]] = {}
    for of in sizes.values():
        mine = speed(of, "hansang fp32")
        found.setdefault("fp32_over_limit", []).append(mine / of[LIMIT]["images_per_cpu_s"])
        overhead = of["hansang fp32"]["1"]["p50_ms"] - of[LIMIT]["p50_ms"]
        found.setdefault("overhead_ms", []).append(-overhead)
        if others:
            best = max(speed(of, name) for name in others)
            found.setdefault("fp32_over_best_peer", []).append(mine / best)
            found.setdefault("int8_over_best_peer", []).append(speed(of, "hansang int8") / best)
            for callers in map(str, CALLERS):
                peer = min(of[name][callers]["p99_ms"] for name in others)
                p99 = of["hansang fp32"][callers]["p99_ms"]
                found.setdefault("p99_over_best_peer", []).append(-p99 / peer)
    # Of times the largest is the worst, of speeds the smallest.
    return {key: round(abs(min(values)) if min(values) < 0 and key != "overhead_ms"
                       else -min(values) if key == "overhead_ms" else min(values), 3)
            for key, values in found.items()}  # fmt: skip


async def latency(
    size: int, names: list[str], peers: Path | None, photos: list[bytes], *, seconds: float
) -> dict[str, Any]:
    """Send photos at random times, at growing rates, to each server."""
    found: dict[str, Any] = {name: [] for name in names}
    with ExitStack() as stack:
        models, subjects = start(stack, size, names, peers, photos)
        for subject in subjects:
            await subject.ready(photos[0])
            subject.rest()
        capacity = limit(models["hansang fp32"], size, photos, seconds)["images_per_s"]
        for part in (0.1, 0.25, 0.4, 0.55, 0.7, 0.85, 1.0):
            for subject in subjects:
                subject.go()
                async with connect(subject.name, subject.port, 128) as call:
                    await call(photos[0])
                    rate = part * capacity
                    taken_s, late = await opened(call, photos, rate, seconds, random.Random(0))
                subject.rest()
                found[subject.name].append(
                    {
                        "offered_per_s": round(rate, 1),
                        "p50_ms": round(1000 * rig.percentile(taken_s, 0.5), 2),
                        "p99_ms": round(1000 * rig.percentile(taken_s, 0.99), 2),
                        "unanswered": late,
                    }
                )
    return found


def draw(found: dict[str, Any], size: int, path: Path) -> None:
    """Draw latency against offered load."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.5), sharex=True, layout="constrained")
    for axis, key in zip(axes, ("p50_ms", "p99_ms"), strict=True):
        for name, points in found.items():
            axis.plot(
                [each["offered_per_s"] for each in points], [each[key] for each in points],
                marker="o", label=name,
            )  # fmt: skip
        axis.set(yscale="log", xlabel="offered, photos/s", ylabel=f"{key[:3]}, ms")
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.suptitle(f"Poisson arrivals, {size} px, {num_cores()} cores, which also send the load")
    figure.savefig(path, dpi=120)


def table(found: dict[str, Any]) -> str:
    """Return the result as Markdown."""
    lines = []
    for size, of in found["sizes"].items():
        lines += [
            f"| {size} px | 1 caller: images/s, p50, p99 ms | 8 | 32 | images per CPU-s at 32"
            " | MB | start s |",
            "| --- | --- | --- | --- | --- | --- | --- |",
            f"| {LIMIT} | p50 {of[LIMIT]['p50_ms']} | | {of[LIMIT]['images_per_s']:.0f}"
            f" | {of[LIMIT]['images_per_cpu_s']:.1f} | | |",
        ]
        for name, one in of.items():
            if name == LIMIT:
                continue
            cells = [
                f"{one[c]['images_per_s']:.0f}, {one[c]['p50_ms']:.1f}, {one[c]['p99_ms']:.1f}"
                for c in map(str, CALLERS)
            ]
            lines.append(
                f"| {name} | {' | '.join(cells)} | {one['32']['images_per_cpu_s']:.1f}"
                f" | {one['memory_mb']} | {one['startup_s']} |"
            )
        lines.append("")
    return "\n".join(lines)


def _run(work: Callable[[], Awaitable[Any]]) -> Any:
    import uvloop

    async def run() -> Any:
        return await work()

    return uvloop.run(run())


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", type=Path, help="environment with requirements/bench.txt")
    parser.add_argument("--only", nargs="+", choices=[*OURS, *PEERS], help="these servers alone")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="image sizes, px")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each turn")
    parser.add_argument("--photos", type=Path, help="a folder of JPEGs; drawn ones if omitted")
    parser.add_argument("--open-loop", type=Path, metavar="PNG", help="latency by offered load")
    parser.add_argument("--json", action="store_true", help="print an object instead of a table")
    arguments = parser.parse_args()
    if arguments.peers:
        # Servers are started elsewhere.
        arguments.peers = arguments.peers.absolute()
    names = arguments.only or [*OURS, *(PEERS if arguments.peers else ())]
    if arguments.photos:
        files = sorted(arguments.photos.rglob("*.jpg"))
        photos = [path.read_bytes() for path in random.Random(0).sample(files, min(64, len(files)))]
    else:
        photos = rig.photos(64, size=(348, 348))
    found: dict[str, Any] = {"cores": num_cores(), "rounds": arguments.rounds, "sizes": {}}
    for size in arguments.sizes:
        if arguments.open_loop:
            one = _run(
                lambda size=size: latency(
                    size, names, arguments.peers, photos, seconds=arguments.seconds
                )
            )
            path = arguments.open_loop
            draw(one, size, path.with_name(f"{path.stem}-{size}{path.suffix}"))
        else:
            one = _run(
                lambda size=size: measure(
                    size, names, arguments.peers, photos, rounds=arguments.rounds,
                    seconds=arguments.seconds,
                )
            )  # fmt: skip
        found["sizes"][str(size)] = one
    if not arguments.open_loop and set(OURS) <= set(names):
        found["ratios"] = ratios(found["sizes"], names)
    if arguments.json or arguments.open_loop:
        print(json.dumps(found, indent=1))
    else:
        print(table(found))
        print(json.dumps(found.get("ratios", {}), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
