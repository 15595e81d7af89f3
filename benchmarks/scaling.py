"""What a call costs by open connections, by cores, and by replicas.

    python -m benchmarks.scaling connections --json
    python -m benchmarks.scaling cores --json
    python -m benchmarks.scaling replicas --json

A real ResNet18 at 64 px; 32 calls are in flight at a time. What counts is CPU time of the servers
for a call: it says what a million photos cost, wherever they are classified.

connections  one server; calls go over the next connection in turn, the others stand open, as those
             of callers do that call now and then
cores        a server on one core and on two, two servers on a core each, and `--workers 2`
replicas     one process, and `--workers 2`, with a model that costs nothing: what is left is what
             Python and JPEG decoding cost, which is what more processes are for
"""

import argparse
import asyncio
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path

from benchmarks import rig
from benchmarks.serving.load import closed
from service.models.repository import ModelRepository
from service.pb import classifier_pb2 as pb

CONNECTIONS = (1, 10, 100, 1000)
CALLERS = 32
LOADS = ((1, 8), (1, 32), (16, 8))
"""Photos in a call, and calls at a time: what `replicas` measures."""


async def turn(
    servers: list[rig.Server],
    connections: int,
    photos: list[bytes],
    seconds: float,
    *,
    per_call: int = 1,
    callers: int = CALLERS,
) -> dict:
    """Open so many connections to each server, use each, and measure."""
    async with AsyncExitStack() as stack:
        stubs = [
            await stack.enter_async_context(rig.stub(f"127.0.0.1:{server.port}"))
            for _ in range(connections)
            for server in servers
        ]
        turns = itertools.cycle(stubs)

        async def call(photo: bytes) -> None:
            images = [photo] * per_call
            await next(turns).Classify(pb.ClassifyRequest(images=images), timeout=60)

        places = asyncio.Semaphore(callers)

        async def first(photo: bytes) -> None:
            async with places:
                await call(photo)

        await asyncio.gather(*(first(photos[at % len(photos)]) for at in range(len(stubs))))
        cpu_s, start_s = sum(each.cpu_s() for each in servers), time.monotonic()
        taken_s = await closed(call, photos, callers, seconds)
        wall_s = time.monotonic() - start_s
        cpu_s = sum(each.cpu_s() for each in servers) - cpu_s
        return {
            "cpu_ms_per_call": 1000 * cpu_s / len(taken_s),
            "images_per_cpu_s": per_call * len(taken_s) / cpu_s,
            "images_per_s": per_call * len(taken_s) / wall_s,
            "p50_ms": 1000 * rig.percentile(taken_s, 0.5),
            "p99_ms": 1000 * rig.percentile(taken_s, 0.99),
            "resident_mb": sum(each.rss_mb() for each in servers),
        }


async def by_connections(rounds: int, seconds: float) -> dict:
    """Measure each number of connections in turns; return medians."""
    photos = rig.photos(64)
    turns: dict[str, list[dict]] = {}
    with real() as store, rig.Server(store.root) as server:
        for _ in range(rounds):
            for count in CONNECTIONS:
                one = await turn([server], count, photos, seconds)
                turns.setdefault(str(count), []).append(one)
    return medians(turns)


async def by_cores(rounds: int, seconds: float) -> dict:
    """Measure each way to use the cores in turns; return medians."""
    photos = rig.photos(64)
    first, *others = sorted(os.sched_getaffinity(0))
    both = {first, *others[:1]}
    turns: dict[str, list[dict]] = {}
    with real() as store, ExitStack() as stack:

        def start(cores: Collection[int], *flags: str) -> rig.Server:
            return stack.enter_context(rig.Server(store.root, *flags, cores=cores))

        ways = {
            "one core": [start({first}, "--runs", "1", "--decode-threads", "1")],
            "two cores": [start(both)],
            "two replicas": [
                start({core}, "--runs", "1", "--decode-threads", "1") for core in both
            ],
            "--workers 2": [start(both, "--workers", "2")],
        }
        for _ in range(rounds):
            for name, servers in ways.items():
                one = await turn(servers, 4, photos, seconds)
                turns.setdefault(name, []).append(one)
    return medians(turns)


async def by_replicas(rounds: int, seconds: float) -> dict:
    """Measure one process and two replicas in turns, at two image sizes; return medians."""
    photos = rig.photos(64)
    turns: dict[str, list[dict]] = {}
    for side in (64, 224):
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            model = rig.tiny_model(Path(folder) / "model.onnx", image_size=side)
            store = stack.enter_context(rig.published(model))
            ways = {
                "one process": stack.enter_context(rig.Server(store.root)),
                "--workers 2": stack.enter_context(rig.Server(store.root, "--workers", "2")),
            }
            for _, (per_call, callers) in itertools.product(range(rounds), LOADS):
                for name, server in ways.items():
                    one = await turn(
                        [server], 12, photos, seconds, per_call=per_call, callers=callers
                    )
                    at = f"{side} px, {callers} callers, {per_call} a call, {name}"
                    turns.setdefault(at, []).append(one)
    return medians(turns)


@contextmanager
def real() -> Iterator[ModelRepository]:
    """Release a ResNet18."""
    with tempfile.TemporaryDirectory() as folder:
        model = rig.real_model(Path(folder) / "model.onnx", image_size=64)
        with rig.published(model) as store:
            yield store


def medians(turns: dict[str, list[dict]]) -> dict:
    """Return the median of each figure over the turns."""
    return {
        name: {key: round(statistics.median(each[key] for each in those), 2) for key in those[0]}
        for name, those in turns.items()
    }


MEASURES = {"connections": by_connections, "cores": by_cores, "replicas": by_replicas}


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=sorted(MEASURES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each turn")
    parser.add_argument("--json", action="store_true", help="print an object instead of lines")
    arguments = parser.parse_args()
    found = asyncio.run(MEASURES[arguments.what](arguments.rounds, arguments.seconds))
    if arguments.json:
        print(json.dumps(found, indent=1))
    for name, one in () if arguments.json else found.items():
        print(f"{name:>16}: {one}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
