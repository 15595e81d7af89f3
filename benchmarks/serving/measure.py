"""Closed loops: every server at several concurrencies, in turns, beside the limit."""

import asyncio
import statistics
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import rig
from benchmarks.serving.load import closed, connect
from benchmarks.serving.subject import Subject, start
from benchmarks.serving.table import CALLERS, LIMIT
from machine import num_cores


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
