"""What a call costs by how many connections are open.

    python -m benchmarks.connections --json

One server and a real ResNet18. 32 calls are in flight at a time, each over the next connection in
turn; the others stand open, as those of callers do that call now and then. What counts is the
server's CPU time for a call.
"""

import argparse
import asyncio
import itertools
import json
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

from benchmarks import rig
from benchmarks.load import closed
from service.pb import classifier_pb2 as pb

CONNECTIONS = (1, 10, 100, 1000)
CALLERS = 32


async def turn(server: rig.Server, connections: int, photos: list[bytes], seconds: float) -> dict:
    """Open so many connections, use each, and measure."""
    async with AsyncExitStack() as stack:
        stubs = [
            await stack.enter_async_context(rig.stub(f"127.0.0.1:{server.port}"))
            for _ in range(connections)
        ]
        turns = itertools.cycle(stubs)

        async def call(photo: bytes) -> None:
            await next(turns).Classify(pb.ClassifyRequest(images=[photo]), timeout=60)

        places = asyncio.Semaphore(CALLERS)

        async def first(photo: bytes) -> None:
            async with places:
                await call(photo)

        await asyncio.gather(*(first(photos[at % len(photos)]) for at in range(connections)))
        cpu_s, start_s = server.cpu_s(), time.monotonic()
        taken_s = await closed(call, photos, CALLERS, seconds)
        cpu_s, wall_s = server.cpu_s() - cpu_s, time.monotonic() - start_s
        return {
            "cpu_ms_per_call": 1000 * cpu_s / len(taken_s),
            "calls_per_s": len(taken_s) / wall_s,
            "p50_ms": 1000 * rig.percentile(taken_s, 0.5),
            "p99_ms": 1000 * rig.percentile(taken_s, 0.99),
            "resident_mb": server.rss_mb(),
        }


async def measure(rounds: int, seconds: float) -> dict:
    """Measure each number of connections in turns; return medians."""
    photos = rig.photos(64)
    with tempfile.TemporaryDirectory() as folder:
        model = rig.real_model(Path(folder) / "model.onnx", image_size=64)
        with rig.published(model) as store, rig.Server(store.root) as server:
            turns: dict[int, list[dict]] = {count: [] for count in CONNECTIONS}
            for _ in range(rounds):
                for count in CONNECTIONS:
                    turns[count].append(await turn(server, count, photos, seconds))
    return {
        str(count): {
            key: round(statistics.median(each[key] for each in those), 2) for key in those[0]
        }
        for count, those in turns.items()
    }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each turn")
    parser.add_argument("--json", action="store_true", help="print an object instead of lines")
    arguments = parser.parse_args()
    found = asyncio.run(measure(arguments.rounds, arguments.seconds))
    if arguments.json:
        print(json.dumps(found, indent=1))
    for count, one in () if arguments.json else found.items():
        print(f"{count:>5} connections: {one}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
