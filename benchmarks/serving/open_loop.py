"""Open loop: latency against offered load, where photos come at random times."""

import random
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import rig
from benchmarks.serving.load import connect, opened
from benchmarks.serving.measure import limit
from benchmarks.serving.subject import start
from machine import num_cores


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
