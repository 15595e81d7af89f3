"""Drain, swap, overload and bad images, against real servers under load; the figures as JSON.

    python -m benchmarks.trouble drain|swap|overload|fuzz        (make trouble: all, at full length)

The tests of the service run the same scenarios, shorter, and hold the same promises.
"""

import argparse
import asyncio
import io
import json
import random
import signal
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import rig
from service.models.repository import ModelStore
from service.pb import classifier_pb2 as pb

Figures = dict[str, Any]

HEALTH_CHECKED = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        "healthCheckConfig": {"serviceName": "hansang.v1.Classifier"},
    }
)
"""What a careful client is told: ask each server's health, and leave those that are not SERVING."""


async def drain(store: ModelStore, *, rounds: int, callers: int, photos: list[bytes]) -> Figures:
    """Restart two servers in turn, again and again, under load whose clients never retry."""
    flags = ("--drain-delay", "0.5")
    servers = [rig.Server(store.root, *flags).ready() for _ in range(2)]
    tally, over = rig.Tally(), asyncio.Event()
    drain_s, codes = [], []
    answered = 'hansang_request_seconds_count{code="OK",method="/hansang.v1.Classifier/Classify"}'
    backoff = ("grpc.max_reconnect_backoff_ms", 500)
    target = "ipv4:" + ",".join(f"127.0.0.1:{server.port}" for server in servers)
    try:
        async with rig.stub(target, ("grpc.service_config", HEALTH_CHECKED), backoff) as to:

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
                again = rig.Server(store.root, *flags, port=servers[at].port)
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


async def swap(
    store: ModelStore, models: list[Path], *, swaps: int, callers: int, photos: list[bytes]
) -> Figures:
    """Release and roll back under load; every answer must be that of the version it names."""
    expected = [probabilities(model, photos) for model in models]
    of_version = {version: version - 1 for version in store.versions("food")}
    wrong: list[str] = []
    tally, over = rig.Tally(), asyncio.Event()
    rss_mb, beats_s = [], []
    with rig.Server(store.root) as server:
        async with rig.stub(f"127.0.0.1:{server.port}") as to:

            async def work(rng: random.Random) -> None:
                at = rng.randrange(len(photos))

                def check(answer: pb.ClassifyResponse) -> None:
                    row = expected[of_version[answer.model_version] % len(models)][at]
                    for found in answer.results[0].classes:
                        if abs(found.probability - row[found.index]) > 1e-4:
                            wrong.append(f"version {answer.model_version}, photo {at}")

                request = pb.ClassifyRequest(images=[photos[at]], top_k=100)
                await tally.call(to, request, check=check)

            async def beat() -> None:
                # What costs no compute shows for how long the event loop stands still.
                while not over.is_set():
                    start_s = time.monotonic()
                    await to.GetModel(pb.GetModelRequest())
                    beats_s.append(time.monotonic() - start_s)
                    await asyncio.sleep(0.005)

            async def serving(version: int) -> None:
                while (await to.GetModel(pb.GetModelRequest())).version != version:
                    await asyncio.sleep(0.02)
                await asyncio.sleep(0.5)
                rss_mb.append(round(server.rss_mb()))

            load = asyncio.create_task(rig.closed_loop(work, callers, over))
            beating = asyncio.create_task(beat())
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


CONNECTIONS = 8
"""Connections that overload comes through; real overload comes from many callers."""

TIMES = 4
"""How many times its capacity a server is offered."""


async def overload(
    store: ModelStore, *flags: str, seconds: float, deadline_s: float, photos: list[bytes]
) -> Figures:
    """Offer four times what the server can do, each call with a deadline; then one call alone.

    The server has cores of its own, and the load another: what is measured is what refusing costs
    the server, and not what the load takes away from it.
    """
    requests = [pb.ClassifyRequest(images=[photo], top_k=1) for photo in photos]
    rng = random.Random(0)
    async with AsyncExitStack() as stack:
        cores = stack.enter_context(rig.own_core())
        server = stack.enter_context(rig.Server(store.root, *flags, cores=cores))
        stubs = [
            await stack.enter_async_context(rig.stub(f"127.0.0.1:{server.port}"))
            for _ in range(CONNECTIONS)
        ]

        async def saturation() -> tuple[float, float]:
            """Return images per second, and the server's CPU seconds for each."""
            tally, over = rig.Tally(), asyncio.Event()

            async def work(rng: random.Random) -> None:
                await tally.call(rng.choice(stubs), rng.choice(requests))

            load = asyncio.create_task(rig.closed_loop(work, 64, over))
            await asyncio.sleep(min(2, seconds / 4))
            while tally.codes["OK"] < 64:  # not before every caller has had its first answer
                await asyncio.sleep(0.1)
            begun, cpu_s, start_s = tally.codes["OK"], server.cpu_s(), time.monotonic()
            await asyncio.sleep(max(seconds / 4, 2))
            while tally.codes["OK"] < begun + 64:
                await asyncio.sleep(0.1)
            images, cpu_s = tally.codes["OK"] - begun, server.cpu_s() - cpu_s
            rate = images / (time.monotonic() - start_s)
            over.set()
            await load
            return rate, cpu_s / images

        before, cpu_each_s = await saturation()
        rss_before, cpu_before = server.rss_mb(), server.cpu_s()
        tally, calls, rss_mb = rig.Tally(), set(), 0.0
        own_s, start_s = time.process_time(), time.monotonic()
        sent, late_s = 0, 0.0
        while (now_s := time.monotonic() - start_s) < seconds:
            late_s = max(late_s, now_s - (sent + 1) / (TIMES * before))
            while sent < TIMES * before * now_s:
                call = asyncio.create_task(
                    tally.call(rng.choice(stubs), rng.choice(requests), timeout_s=deadline_s)
                )
                calls.add(call)
                call.add_done_callback(calls.discard)
                sent += 1
            rss_mb = max(rss_mb, server.rss_mb())
            await asyncio.sleep(0.002)
        goodput = tally.codes["OK"] / seconds
        own_s = (time.process_time() - own_s) / seconds
        if calls:
            await asyncio.wait(calls)
        cpu_s = server.cpu_s() - cpu_before
        start_s = time.monotonic()
        await stubs[0].Classify(requests[0], timeout=5)
        recovery_s = time.monotonic() - start_s
        after, _ = await saturation()
        late = server.metric('hansang_rejected_images_total{reason="deadline"}')
        code = server.stop()
    accepted = tally.codes["OK"] + tally.codes["DEADLINE_EXCEEDED"]
    refused = tally.codes["RESOURCE_EXHAUSTED"]
    usual = (before + after) / 2
    return {
        "cores": {"server": len(cores), "load": 1},
        "saturation_per_s": round(usual, 1),
        "saturation_before_after": [round(before, 1), round(after, 1)],
        "offered_per_s": round(sent / seconds, 1),
        "load_cores": round(own_s, 2),
        "load_late_ms": round(1000 * late_s, 1),
        "goodput_per_s": round(goodput, 1),
        "goodput_part": round(goodput / usual, 3),
        # The same by CPU time, which the neighbours on a machine do not change.
        "goodput_part_by_cpu": round(tally.codes["OK"] * cpu_each_s / cpu_s, 3),
        "codes": dict(tally.codes),
        "accepted_that_kept_the_deadline": round(tally.codes["OK"] / max(accepted, 1), 4),
        "dropped_in_the_queue": late,
        "refusals_with_retry_info": tally.hinted,
        "refusal_p50_ms": round(1000 * rig.percentile(tally.refused_s, 0.5), 1),
        "refusal_p99_ms": round(1000 * rig.percentile(tally.refused_s, 0.99), 1),
        "refusal_cpu_us": round(1e6 * (cpu_s - tally.codes["OK"] * cpu_each_s) / max(refused, 1)),
        "answer_cpu_us": round(1e6 * cpu_each_s),
        "answer_p99_ms": round(1000 * rig.percentile(tally.ok_s, 0.99), 1),
        "rss_mb": [round(rss_before), round(rss_mb)],
        "server_cpu_s": round(cpu_s, 1),
        "first_call_afterwards_ms": round(1000 * recovery_s, 1),
        "exit_code": code,
    }


def seeds() -> list[bytes]:
    """Return small pictures of every kind that is accepted, and of some that are hard."""
    rng = np.random.default_rng(0)
    found = []

    def add(image: Image.Image, kind: str, **options: Any) -> None:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        found.append(buffer.getvalue())

    coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    rgb = Image.fromarray(coarse).resize((96, 72), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6
    for progressive in (False, True):
        add(rgb, "JPEG", progressive=progressive, exif=exif)
    add(rgb.convert("CMYK"), "JPEG")
    add(rgb.convert("L"), "JPEG")
    add(rgb, "PNG")
    add(rgb.convert("P", palette=Image.Palette.ADAPTIVE), "PNG", transparency=3)
    add(Image.fromarray(rng.integers(0, 65536, (40, 50), dtype=np.uint16)), "PNG")
    add(rgb.convert("RGBA"), "PNG")
    add(rgb.convert("1"), "PNG")
    frames = [rgb.rotate(90 * number) for number in range(6)]
    add(rgb, "PNG", save_all=True, append_images=frames)
    add(rgb, "WEBP", quality=60)
    add(rgb.convert("RGBA"), "WEBP", lossless=True)
    add(rgb, "WEBP", save_all=True, append_images=frames)
    return found


def mutated(rng: random.Random, pictures: list[bytes]) -> bytes:
    """Return a picture to which something happened."""
    data = bytearray(rng.choice(pictures))
    kind = rng.randrange(6)
    if kind == 0:  # bits flipped, a few or many
        for _ in range(rng.choice((1, 3, 30))):
            at = rng.randrange(len(data))
            data[at] ^= 1 << rng.randrange(8)
    elif kind == 1:  # cut off
        del data[rng.randrange(len(data)) :]
    elif kind == 2:  # the header of one kind before the body of another
        other = rng.choice(pictures)
        cut = rng.randrange(2, 200)
        data[:cut] = other[: rng.randrange(2, 200)]
    elif kind == 3:  # sizes in the header, which promise what is not there
        for at in range(rng.randrange(40), min(len(data), 40)):
            if rng.random() < 0.3:
                data[at] = rng.choice((0, 1, 0x7F, 0xFF))
    elif kind == 4:  # a part in a wrong place
        start = rng.randrange(len(data))
        part = data[start : start + rng.randrange(200)]
        at = rng.randrange(len(data))
        data[at:at] = part
    else:  # bytes that are random
        data = bytearray(rng.randbytes(rng.randrange(300)))
    return bytes(data)


async def fuzz(store: ModelStore, *, images: int, seed: int = 0) -> Figures:
    """Send mutated images among good ones; the good ones must get the answer they get alone."""
    rng = random.Random(seed)
    pictures = seeds()
    counts: dict[str, int] = {}
    wrong_neighbours = 0
    longest_s = 0.0
    rss_mb = []
    with rig.Server(store.root) as server:
        async with rig.stub(f"127.0.0.1:{server.port}") as to:
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


def main() -> int:
    """Run the scenarios that are named, at full length, on ResNet18 with random weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenario", choices=["drain", "swap", "overload", "fuzz"], nargs="+")
    parser.add_argument("--image-size", type=int, default=64)
    arguments = parser.parse_args()
    size = arguments.image_size
    holds = True
    with tempfile.TemporaryDirectory() as folder:
        models = [
            rig.real_model(Path(folder) / f"{seed}.onnx", image_size=size, seed=seed)
            for seed in range(2)
        ]
        for name in arguments.scenario:
            with rig.published(models[0]) as store:
                photos = rig.photos(16)
                if name == "drain":
                    found = asyncio.run(drain(store, rounds=10, callers=8, photos=photos))
                    good = found["failed"] == 0 and found["exit_codes"] == [0]
                elif name == "swap":
                    found = asyncio.run(swap(store, models, swaps=20, callers=4, photos=photos))
                    good = not found["failed"] and not found["wrong"]
                elif name == "overload":
                    found = asyncio.run(overload(store, seconds=60, deadline_s=1.0, photos=photos))
                    good = found["goodput_part"] >= 0.95
                else:
                    found = asyncio.run(fuzz(store, images=20_000))
                    good = not found["internal"] and not found["wrong_neighbours"]
                holds &= good and found.get("exit_code", 0) == 0
                print(json.dumps({"scenario": name, "holds": good, **found}, indent=1), flush=True)
    return 0 if holds else 1


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(main())
