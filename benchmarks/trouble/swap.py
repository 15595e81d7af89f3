"""Swap: versions are released and rolled back under load, and every answer is the right one's."""

import asyncio
import random
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import rig
from benchmarks.http_door import connected
from service.models.repository import ModelRepository
from service.pb import classifier_pb2 as pb


def probabilities(model: Path, images: list[bytes]) -> list[list[float]]:
    """Return what a version must answer: its own file, asked without a server."""
    from service.models.model import Model
    from service.pixels.preprocessing import preprocess

    loaded = Model(model, device="cpu")
    size = loaded.metadata.image_size
    rows: list[list[float]] = loaded.predict(
        np.stack([preprocess(image, size) for image in images])
    ).tolist()
    return rows


async def _beat(to: Any, over: asyncio.Event, beats_s: list[float]) -> None:
    """Note what calls take that cost no compute: for how long the event loop stands still."""
    while not over.is_set():
        start_s = time.monotonic()
        await to.GetModel(pb.GetModelRequest())
        beats_s.append(time.monotonic() - start_s)
        await asyncio.sleep(0.005)


async def swap(
    store: ModelRepository, models: list[Path], *, swaps: int, callers: int, photos: list[bytes],
    http: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Release and roll back under load; every answer must be that of the version it names."""
    expected = [probabilities(model, photos) for model in models]
    of_version = {version: version - 1 for version in store.versions("food")}
    wrong: list[str] = []
    tally, over = rig.Tally(), asyncio.Event()
    rss_mb: list[int] = []
    beats_s: list[float] = []
    with rig.Server(store.root) as server:
        async with connected(server, http=http) as to:

            async def work(rng: random.Random) -> None:
                at = rng.randrange(len(photos))

                def check(answer: pb.ClassifyResponse) -> None:
                    row = expected[of_version[answer.model_version] % len(models)][at]
                    for found in answer.results[0].classes:
                        if abs(found.probability - row[found.index]) > 1e-4:
                            wrong.append(f"version {answer.model_version}, photo {at}")

                request = pb.ClassifyRequest(images=[photos[at]], top_k=100)
                await tally.call(to, request, check=check)

            async def serving(version: int) -> None:
                while (await to.GetModel(pb.GetModelRequest())).version != version:
                    await asyncio.sleep(0.02)
                await asyncio.sleep(0.5)
                rss_mb.append(round(server.rss_mb()))

            load = asyncio.create_task(rig.closed_loop(work, callers, over))
            beating = asyncio.create_task(_beat(to, over, beats_s))
            await asyncio.sleep(1)
            for number in range(swaps):
                if number % 4 == 3:
                    version = await asyncio.to_thread(store.rollback, "food")
                else:
                    model = models[number % len(models)]
                    new = max(store.versions("food")) + 1
                    of_version[new] = number % len(models)
                    version = await asyncio.to_thread(store.publish, "food", model)
                await serving(version)
            over.set()
            await asyncio.gather(load, beating)
        refused = server.metric("hansang_swap_failures_total")
        code = server.stop()
    return {
        "calls": sum(tally.codes.values()),
        "failed": tally.failed,
        "wrong": wrong[:5],
        "swaps": swaps,
        "refused": refused,
        "rss_mb": rss_mb,
        "longest_call_of_no_compute_ms": round(1000 * max(beats_s), 1),
        "p99_call_of_no_compute_ms": round(1000 * rig.percentile(beats_s, 0.99), 1),
        "exit_code": code,
        "details": dict(tally.details),
    }
