"""What runs in a stage's own process: its steps, one after the other, each told as it goes.

    python benchmarks/gpu.py --work-through MODULE …     started by `rig`, which reads what is told

What is told is a line of JSON each, so that whatever kills the process costs no row before it.
"""

import argparse
import gc
import importlib
import json
import os
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

Found = dict[str, Any]
Step = Callable[[], Found]
SLOWER = {"cuda": 1.0, "cpu": 4.0}
"""How much more time a rehearsal has: on a CPU that others use, too."""

_device = "cpu"
_told: IO[str] | None = None


def _tell(**event: Any) -> None:
    if _told is not None:
        _told.write(json.dumps(event, ensure_ascii=False, default=str) + "\n")
        _told.flush()


class _Rows(list[Found]):
    """Rows of a table; each is told when it is added, and when it is ended so far."""

    def append(self, row: Found) -> None:
        super().append(row)
        _tell(row=row)


def rows() -> list[Found]:
    """Return an empty list for a step's rows, which are told even if the step is cut off."""
    return _Rows()


def limit(seconds: float) -> None:
    """Let the step take so long from now on, on CUDA; then it is cut off."""
    _tell(most_s=seconds * SLOWER[_device])


def work_through(chosen: argparse.Namespace) -> None:
    """Run steps of a module in order; what one raises is told, and the next one runs.

    The process then ends at once: threads of onnxruntime are not waited for.
    """
    global _device, _told
    _device = chosen.device
    _told = chosen.tell.open("a", encoding="utf-8")
    from benchmarks.gpu_stages.machine import link_cuda

    link_cuda()
    if _device == "cpu":
        # The steps that check what is compiled keep all of the front end; those that time it, whose
        # figures mean nothing here, trace alone: 1 s of CPU time a learner instead of 5.
        _rehearse("eager" if chosen.work_through == "training" else "aot_eager")
    module = importlib.import_module(f"benchmarks.gpu_stages.{chosen.work_through}")
    known: dict[str, Step] = module.steps(_device, chosen.work)
    _tell(ready=True)
    for name in chosen.steps:
        _tell(begun=name)
        before_s = _cpu_s()
        try:
            found: Found = {"status": "ok", **known[name]()}
        except Exception as error:
            traceback.print_exc()
            where = traceback.format_exc().splitlines()[-12:]
            found = {"status": f"failed: {type(error).__name__}: {error}", "where": where}
        _tell(ended=name, found={**found, "cpu_s": round(_cpu_s() - before_s, 1)})
        _give_back()
    os._exit(0)


def _rehearse(backend: str) -> None:
    """Replace the compiler, which takes minutes on a CPU, by its front end or a part of it."""
    import torch

    compiled = torch.compile

    def quick(model: Any, **settings: Any) -> Any:
        return compiled(model, backend=backend, dynamic=settings.get("dynamic"))

    torch.compile = quick  # type: ignore[assignment]


def _cpu_s() -> float:
    """Return the CPU seconds of this process and of those that it has started and seen end."""
    return sum(os.times()[:4])


def _give_back() -> None:
    """Give the device's memory back between steps."""
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


def spent(work: Callable[[], object], device: str, *, count: int) -> Found:
    """Profile `count` steps; return milliseconds a step, busy and by the clock, and the kernels.

    The clock's time has what the profiler costs. On CUDA the kernels are those of the process,
    onnxruntime's as well as torch's.
    """
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    on_cuda = device == "cuda"
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_cuda else [])]
    started_s = time.perf_counter()
    with profile(activities=kinds) as seen:
        work()
        sync(device)
    wall_s = time.perf_counter() - started_s

    def own_us(event: Any) -> float:
        name = "self_device_time_total" if on_cuda else "self_cpu_time_total"
        return float(getattr(event, name, 0.0))

    # Kernels alone: what called them, and annotations around them, have the same time once more.
    events = [
        event
        for event in seen.key_averages()
        if not on_cuda
        or (
            event.device_type == DeviceType.CUDA and not getattr(event, "is_user_annotation", False)
        )
    ]
    total_us = sum(own_us(event) for event in events)
    rows = [
        {"kernel": event.key[:90], "share": round(own_us(event) / max(total_us, 1), 3),
         "ms_a_step": round(own_us(event) / 1000 / count, 3)}
        for event in sorted(events, key=own_us, reverse=True)[:15]
    ]  # fmt: skip
    return {
        "busy_ms_a_step": round(total_us / 1000 / count, 2),
        "wall_ms_a_step": round(1000 * wall_s / count, 2),
        "next": rows[0]["kernel"] if rows else "nothing ran",
        "rows": rows,
    }


def once(path: Path, make: Callable[[Path], object]) -> Path:
    """Return a file that `make` writes, unless an earlier process has; it is whole or absent."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        half = path.with_name(f"{os.getpid()}-{path.name}")
        make(half)
        half.replace(path)
    return path
