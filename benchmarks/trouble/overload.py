"""Overload: four times the capacity is offered, and what is answered hardly falls."""

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from benchmarks import rig
from benchmarks.http_load import load_stub
from benchmarks.trouble.envoy import Envoy
from service.models.repository import ModelRepository
from service.pb import classifier_pb2 as pb

CONNECTIONS = 8
"""Connections that overload comes through; real overload comes from many callers."""

IN_FLIGHT = 64
"""Calls that Envoy lets through at a time."""

TIMES = 4
"""How many times its capacity a server is offered."""


async def overload(
    store: ModelRepository, *flags: str, seconds: float, deadline_s: float, photos: list[bytes],
    http: bool = False, envoy: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Offer four times what the server can do, each call with a deadline; then one call alone.

    The server has cores of its own, and the load another: what is measured is what refusing costs
    the server, and not what the load takes away from it. Envoy, if it stands before the server, has
    the server's cores, and its CPU time counts.
    """
    requests = [pb.ClassifyRequest(images=[photo], top_k=1) for photo in photos]
    rng = random.Random(0)
    async with AsyncExitStack() as stack:
        cores = stack.enter_context(rig.own_core())
        server = stack.enter_context(rig.Server(store.root, *flags, cores=cores))
        before_it = Envoy([server.port], cores=cores, most=IN_FLIGHT) if envoy else None
        front = stack.enter_context(before_it) if before_it else None
        stubs = await _connected(stack, store, server, front, http=http)

        def cpu_used_s() -> float:
            return server.cpu_s() + (front.cpu_s() if front else 0)

        async def call() -> None:
            await tally.call(rng.choice(stubs), rng.choice(requests), timeout_s=deadline_s)

        saturation = partial(_saturation, cpu_used_s, stubs, requests, seconds)
        before, cpu_each_s = await saturation()
        rss_before, cpu_before = server.rss_mb(), cpu_used_s()
        tally, calls, rss_mb, sent, late_s = rig.Tally(), set(), 0.0, 0, 0.0
        own_s, start_s = time.process_time(), time.monotonic()
        while (now_s := time.monotonic() - start_s) < seconds:
            late_s = max(late_s, now_s - (sent + 1) / (TIMES * before))
            while sent < TIMES * before * now_s:
                calls.add(sending := asyncio.create_task(call()))
                sending.add_done_callback(calls.discard)
                sent += 1
            rss_mb = max(rss_mb, server.rss_mb())
            await asyncio.sleep(0.002)
        goodput, own_s = tally.codes["OK"] / seconds, (time.process_time() - own_s) / seconds
        if calls:
            await asyncio.wait(calls)
        cpu_s = cpu_used_s() - cpu_before
        start_s = time.monotonic()
        await stubs[0].Classify(requests[0], timeout=5)
        recovery_s = time.monotonic() - start_s
        after, _ = await saturation()
        late = server.metric('hansang_rejected_images_total{reason="deadline"}')
        code = server.stop()
    return {
        "cores": {"server": len(cores), "load": 1},
        "saturation_before_after": [round(before, 1), round(after, 1)],
        "offered_per_s": round(sent / seconds, 1),
        "load_cores": round(own_s, 2),
        "load_late_ms": round(1000 * late_s, 1),
        "dropped_in_the_queue": late,
        "rss_mb": [round(rss_before), round(rss_mb)],
        "first_call_afterwards_ms": round(1000 * recovery_s, 1),
        "exit_code": code,
        **_shares(tally, goodput, (before + after) / 2, cpu_s, cpu_each_s),
    }


async def _connected(
    stack: AsyncExitStack, store: ModelRepository, server: rig.Server, front: Envoy | None, *,
    http: bool,
) -> list[Any]:  # fmt: skip
    """Return stubs on connections of their own, to the server or to what stands before it."""
    (model,) = store.models()
    port = front.port if front else server.port
    return [
        await stack.enter_async_context(
            load_stub(server.http_port, model) if http else rig.stub(f"127.0.0.1:{port}")
        )
        for _ in range(CONNECTIONS)
    ]


async def _saturation(
    cpu_used_s: Callable[[], float], stubs: list[Any], requests: list[Any], seconds: float
) -> tuple[float, float]:
    """Return images per second of 64 callers, and the server's CPU seconds for each."""
    tally, over = rig.Tally(), asyncio.Event()

    async def work(rng: random.Random) -> None:
        await tally.call(rng.choice(stubs), rng.choice(requests))

    load = asyncio.create_task(rig.closed_loop(work, 64, over))
    await asyncio.sleep(min(2, seconds / 4))
    while tally.codes["OK"] < 64:  # not before every caller has had its first answer
        await asyncio.sleep(0.1)
    begun, cpu_s, start_s = tally.codes["OK"], cpu_used_s(), time.monotonic()
    await asyncio.sleep(max(seconds / 4, 2))
    while tally.codes["OK"] < begun + 64:
        await asyncio.sleep(0.1)
    images, cpu_s = tally.codes["OK"] - begun, cpu_used_s() - cpu_s
    rate = images / (time.monotonic() - start_s)
    over.set()
    await load
    return rate, cpu_s / images


def _shares(
    tally: rig.Tally, goodput: float, usual: float, cpu_s: float, cpu_each_s: float
) -> dict[str, Any]:
    """Return what was answered and refused, and what each cost.

    Args:
        tally: Of the overload.
        goodput: Answers a second under it.
        usual: Answers a second at saturation.
        cpu_s: CPU seconds of the server under it.
        cpu_each_s: CPU seconds of one answer at saturation.
    """
    accepted = tally.codes["OK"] + tally.codes["DEADLINE_EXCEEDED"]
    refused = tally.codes["RESOURCE_EXHAUSTED"]
    return {
        "saturation_per_s": round(usual, 1),
        "goodput_per_s": round(goodput, 1),
        "goodput_part": round(goodput / usual, 3),
        # The same by CPU time, which the neighbours on a machine do not change.
        "goodput_part_by_cpu": round(tally.codes["OK"] * cpu_each_s / cpu_s, 3),
        "codes": dict(tally.codes),
        "accepted_that_kept_the_deadline": round(tally.codes["OK"] / max(accepted, 1), 4),
        "refusals_with_retry_info": tally.hinted,
        "refusal_p50_ms": round(1000 * rig.percentile(tally.refused_s, 0.5), 1),
        "refusal_p99_ms": round(1000 * rig.percentile(tally.refused_s, 0.99), 1),
        "refusal_cpu_us": round(1e6 * (cpu_s - tally.codes["OK"] * cpu_each_s) / max(refused, 1)),
        "answer_cpu_us": round(1e6 * cpu_each_s),
        "answer_p99_ms": round(1000 * rig.percentile(tally.ok_s, 0.99), 1),
        "server_cpu_s": round(cpu_s, 1),
    }
