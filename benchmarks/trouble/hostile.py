"""Hostile calls of every kind, by gRPC and HTTP, at a server with its default flags.

Beside each kind a process of its own sends a health check every few milliseconds. Where
the machine is busy, its longest time is told twice: by the clock, and less the time that the server
and this process waited for a core.
"""

import asyncio
import io
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image

from benchmarks import rig
from service.models.repository import ModelRepository
from service.pb import classifier_pb2 as pb
from tests.service.pixels.pictures import chunk, lying_jpeg, png, segment

CLASSIFY = "/hansang.v1.Classifier/Classify"
MIB = 2**20
_REST_S = 2.0

Tally = Counter[str]
Load = Callable[[rig.Server, list[bytes]], Awaitable[Tally]]


def large(kind: str, **options: Any) -> bytes:
    """Return a picture of 36 million pixels in a few kB."""
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((6000, 6000)).convert("RGB").save(buffer, kind, **options)
    return buffer.getvalue()


def images() -> dict[str, tuple[bytes, int]]:
    """Return pictures that are made to cost much, and how many of each are sent in a call."""
    return {
        "a JPEG that lies": (lying_jpeg(65500, 65500), 64),
        "endless segments": (b"\xff\xd8" + segment(0xE5, b"") * 60_000, 64),
        "endless markers": (b"\xff\xd8" + b"\xff\xd0" * 120_000, 64),
        "endless chunks": (png(64, 64, before=chunk(b"teSt", b"") * 18_000), 64),
        "PNG of 50 megapixels": (png(7071, 7071), 4),
        "WebP of 36 megapixels": (large("WEBP", method=0), 4),
        "AVIF of 36 megapixels": (large("AVIF", speed=10), 4),
        "TIFF of 36 megapixels": (large("TIFF", compression="tiff_lzw"), 4),
        "GIF of 36 megapixels": (large("GIF"), 4),
    }


async def outcome(call: Awaitable[Any]) -> str:
    """Return the status of a call, or how many of its images were good."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        return str(error.code().name)
    if not isinstance(answer, pb.ClassifyResponse):
        return "OK"
    good = sum(not result.HasField("error") for result in answer.results)
    return f"{good} of {len(answer.results)} images"


async def unary(server: rig.Server, requests: list[pb.ClassifyRequest]) -> Tally:
    """Send calls at the same time, each by a connection of its own."""
    async with AsyncExitStack() as stack:
        stubs = [
            await stack.enter_async_context(rig.stub(f"127.0.0.1:{server.port}", ("n", number)))
            for number in range(min(len(requests), 8))
        ]
        calls = [
            outcome(stubs[number % len(stubs)].Classify(request, timeout=120))
            for number, request in enumerate(requests)
        ]
        return Counter(await asyncio.gather(*calls))


async def http(server: rig.Server, path: str, body: bytes, kind: str = "application/json") -> str:
    """Send a body over HTTP; return the status."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.http_port)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: {kind}\r\n"
    with suppress(ConnectionError):
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
    line = await reader.readline()
    writer.close()
    return f"HTTP {line.split()[1].decode()}" if line else "closed"


def loads(photos: list[bytes]) -> dict[str, Callable[[rig.Server], Awaitable[Tally]]]:
    """Return what is done to the server, by name."""
    found: dict[str, Callable[[rig.Server], Awaitable[Tally]]] = {}

    def add(name: str, load: Callable[[rig.Server], Awaitable[Tally]]) -> None:
        found[name] = load

    for name, (data, count) in images().items():
        request = pb.ClassifyRequest(images=[data] * min(count, 15 * MIB // len(data)))
        add(f"{name}, gRPC", lambda server, it=request: unary(server, [it]))

        async def by_http(server: rig.Server, data: bytes = data) -> Tally:
            where = "/v1/models/food:classify"
            return Counter(
                await asyncio.gather(*(http(server, where, data, "image/x") for _ in range(4)))
            )

        add(f"{name}, HTTP", by_http)
    numbers = b'{"inputs": [' + b"0," * (7 * MIB) + b"0]}"
    text = json.dumps({"images": ["A" * (15 * MIB)]}).encode()

    async def tensors(server: rig.Server) -> Tally:
        return Counter([await http(server, "/v2/models/food/infer", numbers) for _ in range(4)])

    async def long_text(server: rig.Server) -> Tally:
        where = "/v1/models/food:classify"
        return Counter(await asyncio.gather(*(http(server, where, text) for _ in range(8))))

    add("16 MiB of numbers in JSON", tensors)
    add("8 bodies of 15 MiB of text", long_text)
    add("40 gzip calls of 15 MiB of zeros", gzip)
    add("16 streams of 15 MiB messages", streams)
    add("64 health watchers", watchers)
    add("2,300 calls without a message", silent)
    add("64 slow HTTP bodies", dripping)
    one = pb.ClassifyRequest(images=photos[:1])
    add("5,000 calls at once", lambda server: unary(server, [one] * 5000))
    many = pb.ClassifyRequest(images=photos[:16])
    original = rig.photos(1, size=(4000, 3000))[0]
    originals = pb.ClassifyRequest(images=[original] * max(1, min(16, 15 * MIB // len(original))))
    add("six calls of 12-megapixel originals", lambda server: unary(server, [originals] * 6))

    async def small_again(server: rig.Server) -> Tally:
        async with rig.stub(f"127.0.0.1:{server.port}") as to:
            return Counter([await outcome(to.Classify(many, timeout=1.0)) for _ in range(5)])

    add("then 16 small ones, deadline 1 s", small_again)
    return found


async def gzip(server: rig.Server) -> Tally:
    """Send small calls that unpack to much."""
    raw = pb.ClassifyRequest(images=[bytes(15 * MIB)]).SerializeToString()
    async with AsyncExitStack() as stack:
        calls = []
        for number in range(40):
            options = [("grpc.use_local_subchannel_pool", 1), ("n", number)]
            channel = await stack.enter_async_context(
                grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options=options)
            )
            call = channel.unary_unary(CLASSIFY)
            calls.append(outcome(call(raw, compression=grpc.Compression.Gzip, timeout=60)))
        return Counter(await asyncio.gather(*calls))


async def streams(server: rig.Server) -> Tally:
    """Send large messages over streams, as fast as they are read."""
    message = pb.ClassifyRequest(images=[bytes(15 * MIB)])

    async def one(number: int) -> str:
        async with rig.stub(f"127.0.0.1:{server.port}", ("n", number)) as to:
            answers = [answer async for answer in to.ClassifyStream([message] * 4)]
            return f"{len(answers)} answers"

    return Counter(await asyncio.gather(*(one(number) for number in range(16))))


async def watchers(server: rig.Server) -> Tally:
    """Open health watchers, and keep them open while a call is made."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        request = health_pb2.HealthCheckRequest(service="hansang.v1.Classifier")
        watching = [health_pb2_grpc.HealthStub(channel).Watch(request) for _ in range(64)]
        for each in watching:
            await each.read()
        await asyncio.sleep(1)
        return Counter({"watching": len(watching)})


async def silent(server: rig.Server) -> Tally:
    """Open calls that never send their message; call by another connection meanwhile."""
    request = pb.ClassifyRequest(images=rig.photos(1))
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options=options) as channel:
        calls = [channel.stream_unary(CLASSIFY)() for _ in range(2300)]
        await asyncio.sleep(0.5)
        found = await unary(server, [request] * 10)
        for call in calls:
            call.cancel()
        return found


async def dripping(server: rig.Server) -> Tally:
    """Send bodies a byte at a time; the server cuts them off."""

    async def one() -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.http_port)
        head = b"POST /v1/models/food:classify HTTP/1.1\r\nHost: x\r\nContent-Length: 90000\r\n\r\n"
        writer.write(head)
        answer = asyncio.ensure_future(reader.readline())
        while not answer.done():
            with suppress(ConnectionError):
                writer.write(b"x")
            await asyncio.sleep(0.2)
        writer.close()
        line = answer.result()
        return f"HTTP {line.split()[1].decode()}" if line else "closed"

    return Counter(await asyncio.gather(*(one() for _ in range(64))))


async def hostile(store: ModelRepository, *flags: str, photos: list[bytes]) -> dict[str, Any]:
    """Do all of it, one after the other, to one server; return a row for each kind."""
    rows: dict[str, dict[str, Any]] = {}
    with rig.Server(store.root, *flags) as server:
        at_rest_mb = server.rss_mb()
        async with rig.stub(f"127.0.0.1:{server.port}") as to:
            await to.Classify(pb.ClassifyRequest(images=photos[:1]))
        for name, load in loads(photos).items():
            rows[name] = await beside(server, load)
            print(f"{name}: {rows[name]}", flush=True)
            await asyncio.sleep(_REST_S)
        internal = server.metric('hansang_bad_images_total{kind="unhandled"}')
        tracebacks = server.logs.read_text().count("Traceback")
        code = server.stop()
    return {
        "rows": rows,
        "rss_at_rest_mb": round(at_rest_mb),
        "rss_worst_mb": max(row["rss_mb"] for row in rows.values()),
        "longest_health_ms": max(row["health_ms"] for row in rows.values()),
        "longest_health_on_a_core_ms": max(row["on_a_core_ms"] for row in rows.values()),
        "unhandled": internal,
        "tracebacks": tracebacks,
        "exit_code": code,
    }


def health_checks(server: rig.Server) -> "subprocess.Popen[bytes]":
    """Start what checks the server's health until its stdin ends."""
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "benchmarks.trouble.health_checks"),
            *(f"127.0.0.1:{server.port}", str(server.process.pid)),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=rig.ENVIRONMENT,
    )


async def beside(
    server: rig.Server, load: Callable[[rig.Server], Awaitable[Tally]]
) -> dict[str, Any]:
    """Return what became of a load, and how the server fared meanwhile."""
    checking = health_checks(server)
    assert checking.stdout
    await asyncio.to_thread(checking.stdout.readline)
    doing, rss_mb = asyncio.ensure_future(load(server)), 0.0
    while not doing.done():
        with suppress(OSError, IndexError):  # a helper ended meanwhile
            rss_mb = max(rss_mb, server.rss_mb())
        await asyncio.sleep(0.01)
    told, _ = await asyncio.to_thread(checking.communicate, b"over")
    return {"outcomes": dict(await doing), **json.loads(told), "rss_mb": round(rss_mb)}
