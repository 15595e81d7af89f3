"""What a device spends its time on, kernel by kernel."""

import time
from collections.abc import Callable
from typing import Any

from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu_stages.rig import sync

_SHOWN = 15


def spent(work: Callable[[], object], device: str, *, count: int) -> dict[str, Any]:
    """Profile `count` steps; return milliseconds a step, busy and by the clock, and the kernels.

    The clock's time has what the profiler costs.
    """
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
        for event in sorted(events, key=own_us, reverse=True)[:_SHOWN]
    ]  # fmt: skip
    return {
        "busy_ms_a_step": round(total_us / 1000 / count, 2),
        "wall_ms_a_step": round(1000 * wall_s / count, 2),
        "next": rows[0]["kernel"] if rows else "nothing ran",
        "rows": rows,
    }
