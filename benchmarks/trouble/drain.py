"""Drain: servers restart in turn under load, and no call fails."""

import asyncio
import json
import random
import time
from typing import Any

from benchmarks import rig
from benchmarks.http_door import http_stub
from service.models.repository import ModelRepository
from service.pb import classifier_pb2 as pb

HEALTH_CHECKED = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        "healthCheckConfig": {"serviceName": "hansang.v1.Classifier"},
    }
)
"""What a careful client is told: ask each server's health, and leave those that are not SERVING."""


async def drain(
    store: ModelRepository, *, rounds: int, callers: int, photos: list[bytes], http: bool = False
) -> dict[str, Any]:
    """Restart two servers in turn, again and again, under load whose clients never retry."""
    flags = ("--drain-delay", "0.5")
    servers = [rig.Server(store.root, *flags).ready() for _ in range(2)]
    tally, over = rig.Tally(), asyncio.Event()
    drain_s, codes = [], []
    answered = 'hansang_request_seconds_count{code="OK",method="/hansang.v1.Classifier/Classify"}'
    backoff = ("grpc.max_reconnect_backoff_ms", 500)
    target = "ipv4:" + ",".join(f"127.0.0.1:{server.port}" for server in servers)
    try:
        careful = ("grpc.service_config", HEALTH_CHECKED)
        async with (
            http_stub([server.http_port for server in servers])
            if http
            else rig.stub(target, careful, backoff)
        ) as to:

            async def work(rng: random.Random) -> None:
                images = rng.choices(photos, k=rng.choice((1, 1, 1, 8)))
                await tally.call(to, pb.ClassifyRequest(images=images, top_k=1))

            load = asyncio.create_task(rig.closed_loop(work, callers, over))
            await asyncio.sleep(1)
            for turn in range(rounds):
                at = turn % 2
                start_s = time.monotonic()
                codes.append(await asyncio.to_thread(servers[at].stop))
                drain_s.append(time.monotonic() - start_s)
                again = rig.Server(
                    store.root, *flags, port=servers[at].port, http_port=servers[at].http_port
                )
                servers[at] = await asyncio.to_thread(again.ready)
                # As a careful rollout does: the next one only when this one is called again.
                while await asyncio.to_thread(servers[at].metric, answered) < 20:
                    await asyncio.sleep(0.1)
            over.set()
            await load
    finally:
        for server in servers:
            server.__exit__()
    return {
        "calls": sum(tally.codes.values()),
        "failed": tally.failed,
        "exit_codes": sorted(set(codes)),
        "restarts": rounds,
        "longest_drain_s": round(max(drain_s), 2),
        "p99_ms": round(1000 * rig.percentile(tally.ok_s, 0.99), 1),
        "details": dict(tally.details),
    }
