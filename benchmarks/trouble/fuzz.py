"""Fuzz: broken images among good ones, which get the answers that they get alone."""

import asyncio
import random
import time
from typing import Any

from benchmarks import rig
from benchmarks.http_door import connected
from benchmarks.trouble.pictures import mutated, seeds
from service.models.repository import ModelRepository
from service.pb import classifier_pb2 as pb


async def fuzz(
    store: ModelRepository, *, images: int, seed: int = 0, http: bool = False
) -> dict[str, Any]:
    """Send mutated images among good ones; the good ones must get the answer they get alone."""
    rng = random.Random(seed)
    pictures = seeds()
    counts: dict[str, int] = {}
    wrong_neighbours = 0
    longest_s = 0.0
    rss_mb = []
    with rig.Server(store.root) as server:
        async with connected(server, http=http) as to:
            alone = [
                (await to.Classify(pb.ClassifyRequest(images=[picture], top_k=100))).results[0]
                for picture in pictures
            ]
            assert all(each.classes for each in alone), "a seed is no picture"
            per_call = 15
            gate = asyncio.Semaphore(8)

            async def call(bad: list[bytes], at: int) -> None:
                nonlocal wrong_neighbours, longest_s
                async with gate:
                    start_s = time.monotonic()
                    answer = await to.Classify(
                        pb.ClassifyRequest(images=[*bad, pictures[at]], top_k=100), timeout=60
                    )
                    longest_s = max(longest_s, time.monotonic() - start_s)
                for result in answer.results[:-1]:
                    name = str(result.error.code) if result.HasField("error") else "OK"
                    counts[name] = counts.get(name, 0) + 1
                wrong_neighbours += not same(answer.results[-1], alone[at])

            sent = 0
            while sent < images:
                calls = []
                for _ in range(64):
                    bad = [mutated(rng, pictures) for _ in range(per_call)]
                    calls.append(call(bad, rng.randrange(len(pictures))))
                    sent += len(bad)
                await asyncio.gather(*calls)
                rss_mb.append(round(server.rss_mb()))
        bad_kinds = {
            kind: server.metric(f'hansang_bad_images_total{{kind="{kind}"}}')
            for kind in ("format", "broken", "too_many_pixels", "empty", "unhandled")
        }
        code = server.stop()
    return {
        "images": sent,
        "by_code": counts,
        "internal": counts.get("13", 0),
        "wrong_neighbours": wrong_neighbours,
        "longest_call_s": round(longest_s, 2),
        "kinds": bad_kinds,
        "rss_mb": [rss_mb[0], rss_mb[len(rss_mb) // 2], rss_mb[-1]],
        "exit_code": code,
    }


def same(one: pb.ImageResult, other: pb.ImageResult, tolerance: float = 1e-5) -> bool:
    """Whether two answers to the same bytes are one: each probability within the tolerance."""
    first, second = ({c.index: c.probability for c in each.classes} for each in (one, other))
    return first.keys() == second.keys() and all(
        abs(first[index] - second[index]) <= tolerance for index in first
    )
