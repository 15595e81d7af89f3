"""Half an hour of everything at once, with clients that crash: memory, threads and files stay flat.

    python -m benchmarks.soak --minutes 30        (make soak)

Calls for one and for many images, bulk streams, Open Inference Protocol calls, bad images,
deadlines that cannot be kept, calls that are cancelled, clients that are killed in mid-stream, a
swap every half minute. Prints its figures as JSON; the exit code is 1 where something grew or a
call failed that should not.
"""

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import grpc

from benchmarks import rig
from benchmarks.trouble.pictures import mutated, seeds
from service.client.client import AsyncClassifier
from service.pb import classifier_pb2 as pb
from service.pb import inference_pb2, inference_pb2_grpc

CRASHING = """
import os, signal, sys, threading
from service.client import Classifier
photo = open(sys.argv[2], "rb").read()
def photos():
    while True:
        yield photo
with Classifier(sys.argv[1]) as classifier:
    for number, _ in enumerate(classifier.bulk(photos())):
        if number == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)
"""
"""A client that dies in mid-stream, with requests under way."""

EXPECTED = {"RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "CANCELLED"}
"""Codes that this load provokes; any other is a failure."""


class Load:
    """Everything that callers do, at once."""

    def __init__(self, server: rig.Server, folder: Path) -> None:
        self.server = server
        self.photos = rig.photos(24)
        self.bad = seeds()
        self.counts: Counter[str] = Counter()
        self.over = asyncio.Event()
        self._photo = folder / "photo.jpg"
        self._photo.write_bytes(self.photos[0])

    async def run(self) -> None:
        """Call until told to stop."""
        await asyncio.gather(
            *(self._interactive(seed) for seed in range(3)),
            self._bulk(),
            self._oip(),
            self._impatient(),
            self._crashing(),
        )

    async def _interactive(self, seed: int) -> None:
        rng = random.Random(seed)
        while not self.over.is_set():
            # A channel of its own for some calls each: connections come and go.
            async with rig.stub(f"127.0.0.1:{self.server.port}") as to:
                for _ in range(50):
                    images = rng.choices(self.photos, k=rng.choice((1, 1, 1, 4, 16)))
                    images += [mutated(rng, self.bad) for _ in range(rng.randrange(3))]
                    await self._count("interactive", to.Classify(pb.ClassifyRequest(images=images)))
                    await asyncio.sleep(rng.random() * 0.05)
                    if self.over.is_set():
                        return

    async def _bulk(self) -> None:
        while not self.over.is_set():
            async with AsyncClassifier(f"127.0.0.1:{self.server.port}") as classifier:
                async for result in classifier.bulk(self.photos * 20):
                    self.counts["bulk OK" if result.error is None else "bulk error"] += 1
                    if self.over.is_set():
                        return

    async def _oip(self) -> None:
        address = f"127.0.0.1:{self.server.port}"
        async with grpc.aio.insecure_channel(address) as channel:
            to = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
            while not self.over.is_set():
                request = inference_pb2.ModelInferRequest(model_name="food")
                request.inputs.add(name="images", datatype="BYTES", shape=[2, 1])
                two = [len(p).to_bytes(4, "little") + p for p in self.photos[:2]]
                request.raw_input_contents.append(b"".join(two))
                await self._count("oip", to.ModelInfer(request))
                await self._count("statistics", to.ModelStatistics(
                    inference_pb2.ModelStatisticsRequest()
                ))  # fmt: skip
                await asyncio.sleep(0.1)

    async def _impatient(self) -> None:
        rng = random.Random(9)
        async with rig.stub(f"127.0.0.1:{self.server.port}") as to:
            while not self.over.is_set():
                request = pb.ClassifyRequest(images=rng.choices(self.photos, k=8))
                await self._count("near deadline", to.Classify(request, timeout=0.02))
                call = to.Classify(request)
                await asyncio.sleep(rng.random() * 0.03)
                call.cancel()
                await self._count("cancelled", call)
                await asyncio.sleep(0.1)

    async def _crashing(self) -> None:
        rng = random.Random(7)
        while not self.over.is_set():
            client = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", CRASHING, f"127.0.0.1:{self.server.port}"),
                *(str(self._photo), str(rng.randrange(1, 200))),
                env=rig.ENVIRONMENT,
                stderr=subprocess.DEVNULL,
            )
            self.counts[f"crashed {await client.wait()}"] += 1
            await asyncio.sleep(2)

    async def _count(self, kind: str, call: Any) -> None:
        try:
            await call
            self.counts[f"{kind} OK"] += 1
        except grpc.aio.AioRpcError as error:
            self.counts[f"{kind} {error.code().name}"] += 1
        except asyncio.CancelledError:
            if not call.cancelled():
                raise
            self.counts[f"{kind} CANCELLED"] += 1


async def soak(folder: Path, models: list[Path], *, minutes: float) -> dict[str, Any]:
    """Run the load; return the figures."""
    samples: list[dict[str, float]] = []
    swaps = 0
    with rig.published(*models) as store, rig.Server(store.root) as server:
        load = Load(server, folder)
        loading = asyncio.create_task(load.run())
        start_s = swapped_s = time.monotonic()
        while (now_s := time.monotonic()) - start_s < 60 * minutes and not loading.done():
            await asyncio.sleep(min(5, 3 * minutes))
            samples.append(
                {"rss_mb": server.rss_mb(), "threads": server.threads(), "fds": server.fds()}
            )
            if now_s - swapped_s > min(30, 20 * minutes):
                swapped_s = now_s
                swaps += 1
                await asyncio.to_thread(store.publish, "food", models[swaps % len(models)])
        load.over.set()
        await loading
        await asyncio.sleep(1)
        idle = {
            name: server.metric(f"hansang_{name}")
            for name in ("admitted_images", "bytes_in_flight", "open_streams", "queued_images")
        }
        at_rest = {"rss_mb": server.rss_mb(), "threads": server.threads(), "fds": server.fds()}
        images = server.metric("hansang_predictions_total")
        code = server.stop()
    quarters = [
        samples[len(samples) * n // 4 : max(len(samples) * (n + 1) // 4, 1)] for n in range(4)
    ]
    middle = {
        name: [statistics.median(each[name] for each in part) for part in quarters if part]
        for name in ("rss_mb", "threads", "fds")
    }
    unexpected = {
        name: count
        for name, count in load.counts.items()
        if name.split()[-1] not in (EXPECTED | {"OK"}) and not name.startswith("crashed -9")
    }
    flat = (
        # Of the first quarter nothing is asked: what is used at times is not yet in memory.
        middle["rss_mb"][-1] <= 1.05 * middle["rss_mb"][1] + 5
        and middle["threads"][-1] <= middle["threads"][1] + 2
        and middle["fds"][-1] <= middle["fds"][1] + 5
    )
    return {
        "minutes": minutes,
        "images_classified": images,
        "swaps": swaps,
        "calls": dict(sorted(load.counts.items())),
        "unexpected": unexpected,
        "quarters": {name: [round(value, 1) for value in each] for name, each in middle.items()},
        "most": {n: round(max(each[n] for each in samples), 1) for n in samples[0]},
        "afterwards": {**{n: round(v, 1) for n, v in at_rest.items()}, **idle},
        "flat": flat,
        "exit_code": code,
        "holds": flat and not unexpected and not any(idle.values()) and code == 0,
    }


def main() -> int:
    """Soak ResNet18 with random weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--image-size", type=int, default=64)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = [
            rig.real_model(folder / f"{seed}.onnx", image_size=arguments.image_size, seed=seed)
            for seed in range(2)
        ]
        figures = asyncio.run(soak(folder, models, minutes=arguments.minutes))
    print(json.dumps(figures, indent=1))
    return 0 if figures["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
