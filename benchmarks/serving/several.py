"""Our server where calls carry several photos, and where one stream does: what a busy caller does.

Each figure is of as many photos at a time as 32 callers of one photo have.
"""

import time
from collections.abc import AsyncIterator
from typing import Any

import grpc

from benchmarks.serving.load import closed
from benchmarks.serving.subject import Subject
from service.pb import classifier_pb2 as pb
from service.pb import classifier_pb2_grpc as pb_grpc

PHOTOS = 32
"""In flight."""
EACH = (1, 8, 32)
"""Photos a call; a stream has requests of 8."""


async def several(subject: Subject, photos: list[bytes], seconds: float) -> dict[str, Any]:
    """Return images per CPU-second of a server by how its photos come."""
    subject.go()
    found = {}
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{subject.port}") as channel:
            stub = pb_grpc.ClassifierStub(channel)  # type: ignore[no-untyped-call]
            for each in EACH:
                requests = [_request(photos, at, each) for at in range(0, len(photos), each)]

                async def call(request: Any) -> None:
                    _check(await stub.Classify(request, timeout=60))

                cpu_s, start_s = subject.cpu_s(), time.monotonic()
                num_calls = len(await closed(call, requests, PHOTOS // each, seconds))
                found[f"{each} a call"] = _figures(subject, num_calls * each, cpu_s, start_s)
            cpu_s, start_s = subject.cpu_s(), time.monotonic()
            count = await _stream(stub, photos, seconds)
            found["a stream"] = _figures(subject, count, cpu_s, start_s)
    finally:
        subject.rest()
    return found


async def _stream(stub: Any, photos: list[bytes], seconds: float) -> int:
    """Send photos for so long; return how many were answered."""
    end_s = time.monotonic() + seconds
    answered = 0

    async def requests() -> AsyncIterator[Any]:
        at = 0
        while time.monotonic() < end_s:
            yield _request(photos, at, 8)
            at += 8

    async for response in stub.ClassifyStream(requests(), timeout=60):
        _check(response)
        answered += len(response.results)
    return answered


def _request(photos: list[bytes], at: int, count: int) -> Any:
    return pb.ClassifyRequest(images=[photos[(at + k) % len(photos)] for k in range(count)])


def _check(response: Any) -> None:
    if not all(result.classes for result in response.results):
        raise RuntimeError(response)


def _figures(subject: Subject, count: int, cpu_s: float, start_s: float) -> dict[str, float]:
    return {
        "images_per_s": round(count / (time.monotonic() - start_s), 1),
        "images_per_cpu_s": round(count / max(subject.cpu_s() - cpu_s, 0.01), 1),
    }
