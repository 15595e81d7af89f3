"""Closed loops: every server at several concurrencies, in turns, beside the limit."""

import asyncio
import multiprocessing
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import rig
from benchmarks.serving.load import closed, connect
from benchmarks.serving.several import several
from benchmarks.serving.subject import BARE, EMPTY, OURS, Subject, start
from benchmarks.serving.table import CALLERS, LIMIT, LIMIT_AUTO
from machine import num_cores
from service.pixels.preprocessing import preprocess

_BATCHES = (1, 8, 16, 32)
_LIMITS = (
    (LIMIT, "hansang fp32", "onnxruntime"),
    (LIMIT_AUTO, "hansang auto", "auto"),
)
"""Name, whose file, and which engine."""


def limit(
    model: Path, size: int, photos: list[bytes], seconds: float, engine: str = "onnxruntime"
) -> dict[str, float]:
    """Measure decoding and the bare model on every core, without a server, at the best batch size.

    It is called in a process of its own, whose CPU time counts.
    """
    from service.models.model import Model
    from service.sessions.cpu_engine import CpuOptions

    loaded = Model(model, device="cpu", cpu=CpuOptions(engine=engine, runs=num_cores()))
    loaded.warm_up(max(_BATCHES))
    found = [_limit_at(loaded, size, photos, seconds / 2, batch) for batch in _BATCHES]
    alone = []
    for photo in photos[:20]:
        start_s = time.perf_counter()
        loaded.predict(preprocess(photo, size)[None])
        alone.append(1000 * (time.perf_counter() - start_s))
    best = max(found, key=lambda each: each["images_per_cpu_s"])
    return {**best, "p50_ms": statistics.median(alone)}


def _limit_at(
    loaded: Any, size: int, photos: list[bytes], seconds: float, batch: int
) -> dict[str, float]:
    images = [0] * num_cores()
    end_s = time.monotonic() + seconds

    def work(at: int) -> None:
        while time.monotonic() < end_s:
            chosen = [photos[each % len(photos)] for each in range(batch)]
            loaded.predict(np.stack([preprocess(photo, size) for photo in chosen]))
            images[at] += batch

    cpu_s, start_s = time.process_time(), time.monotonic()
    threads = [threading.Thread(target=work, args=(at,)) for at in range(len(images))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {
        "images_per_s": sum(images) / (time.monotonic() - start_s),
        "images_per_cpu_s": sum(images) / (time.process_time() - cpu_s),
        "batch": batch,
    }


async def _under_load(bare: Subject | None, photos: list[bytes], work: Callable[[], Any]) -> Any:
    """Do some work in a process of its own while 32 callers send to a server that only answers."""
    loop = asyncio.get_running_loop()
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        working = loop.run_in_executor(pool, work)
        if bare is not None:
            bare.go()
            async with connect(BARE, bare.port, max(CALLERS)) as call:
                while not working.done():
                    await closed(call, photos, max(CALLERS), 0.1)
            bare.rest()
        return await working


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
    tiny = rig.photos(len(photos), size=(8, 8))
    with ExitStack() as stack:
        models, subjects = start(stack, size, names, peers, photos)
        found: dict[str, Any] = {name: {} for name in names}
        for subject in subjects:
            await subject.ready(photos[0])
            found[subject.name]["startup_s"] = round(subject.startup_s, 2)
            subject.rest()
        turns: dict[tuple[str, int], list[Any]] = {}
        limits: dict[str, list[Any]] = {}
        bare = next((subject for subject in subjects if subject.name == BARE), None)
        for _ in range(rounds):
            for name, ours, engine in _LIMITS:
                work = partial(limit, models[ours], size, photos, seconds, engine)
                limits.setdefault(name, []).append(await _under_load(bare, photos, work))
            for callers in CALLERS:
                for subject in subjects:
                    sent = tiny if subject.name in (EMPTY, BARE) else photos
                    turn = await one_turn(subject, callers, seconds, sent)
                    turns.setdefault((subject.name, callers), []).append(turn)
        for subject in subjects:
            if subject.name in OURS:
                found[subject.name]["several"] = await several(subject, photos, 2 * seconds)
            subject.go()
            found[subject.name]["memory_mb"] = round(subject.memory_mb())
            subject.rest()
        for (name, callers), each in turns.items():
            found[name][str(callers)] = medians(each)
        return {**{name: medians(each) for name, each in limits.items()}, **found}
