"""What a call costs by open connections, and by cores, replicas and front ends.

    python -m benchmarks.scaling connections --json
    python -m benchmarks.scaling cores --json

A real ResNet18 at 64 px. 32 calls are in flight at a time. What counts is CPU time of the servers
for a call: it says what a million photos cost, wherever they are classified.

connections  one server; calls go over the next connection in turn, the others stand open, as those
             of callers do that call now and then
cores        a server on one core and on two, two servers on a core each, and one with front ends
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


async def turn(
    servers: list[rig.Server], connections: int, photos: list[bytes], seconds: float
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
            await next(turns).Classify(pb.ClassifyRequest(images=[photo]), timeout=60)

        places = asyncio.Semaphore(CALLERS)

        async def first(photo: bytes) -> None:
            async with places:
                await call(photo)

        await asyncio.gather(*(first(photos[at % len(photos)]) for at in range(len(stubs))))
        cpu_s, start_s = sum(each.cpu_s() for each in servers), time.monotonic()
        taken_s = await closed(call, photos, CALLERS, seconds)
        wall_s = time.monotonic() - start_s
        cpu_s = sum(each.cpu_s() for each in servers) - cpu_s
        return {
            "cpu_ms_per_call": 1000 * cpu_s / len(taken_s),
            "calls_per_s": len(taken_s) / wall_s,
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
            "two front ends": [start(both, "--workers", "2")],
        }
        for _ in range(rounds):
            for name, servers in ways.items():
                one = await turn(servers, 4, photos, seconds)
                turns.setdefault(name, []).append(one)
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


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("connections", "cores"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each turn")
    parser.add_argument("--json", action="store_true", help="print an object instead of lines")
    arguments = parser.parse_args()
    measure = by_connections if arguments.what == "connections" else by_cores
    found = asyncio.run(measure(arguments.rounds, arguments.seconds))
    if arguments.json:
        print(json.dumps(found, indent=1))
    for name, one in () if arguments.json else found.items():
        print(f"{name:>16}: {one}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
