"""Images that are made to stop the event loop: others are answered all the while."""

import asyncio
import time
from pathlib import Path

import pytest

from service.pb import classifier_pb2 as pb
from tests.service.pixels.pictures import chunk, encode, gradient, lying_jpeg, png, segment

HOSTILE = {
    "segments": b"\xff\xd8" + segment(0xE5, b"") * 60_000,
    "markers": b"\xff\xd8" + b"\xff\xd0" * 120_000,
    "junk": b"\xff\xd8" + b"\0\xff\0" * 80_000,
    "chunks": png(64, 64, before=chunk(b"teSt", b"") * 18_000),
    "two sizes": lying_jpeg(65500, 65500) + bytes(170_000),
}


@pytest.mark.parametrize("kind", HOSTILE)
async def test_a_call_of_hostile_images_holds_nobody_up(kind, publish, process, connect):
    """64 images of 240 kB are refused one by one, and calls beside them do not wait for it.

    It was 5 s. On a quiet machine it is below 50 ms; a busy one adds its own delays.
    """
    publish("food")
    server = process(max_message_bytes=64 * 2**20)
    stub, beside = connect(server.port), connect(server.port)
    answer, longest_s = await beside_a_call(stub, beside, [HOSTILE[kind]] * 64)
    assert all(result.HasField("error") for result in answer.results)
    assert longest_s < 1


@pytest.mark.parametrize("kind", ["WEBP", "AVIF", "PNG"])
async def test_large_pictures_hold_nobody_up(kind, publish, process, connect):
    """Of 36 million pixels each: their decoders keep the interpreter's lock, but not the server's.

    They held up calls beside them for 50 to 230 ms, and for 10 ms in helper processes.
    """
    publish("food")
    server = process(max_decode_bytes=2**31)
    stub, beside = connect(server.port), connect(server.port)
    data = encode(gradient(60, 60).resize((6000, 6000)), kind)
    await stub.Classify(pb.ClassifyRequest(images=[data]))
    answer, longest_s = await beside_a_call(stub, beside, [data] * 2)
    assert not any(result.HasField("error") for result in answer.results)
    assert longest_s < 1
    children = Path(f"/proc/{server.pid}/task").glob("*/children")
    helpers = [pid for each in children for pid in each.read_text().split()]
    assert 1 <= len(helpers) <= 2


async def beside_a_call(stub, beside, images: list[bytes]) -> tuple[pb.ClassifyResponse, float]:
    """Return a call's answer, and the longest time that other calls took meanwhile."""
    await beside.GetModel(pb.GetModelRequest())
    call = asyncio.ensure_future(stub.Classify(pb.ClassifyRequest(images=images)))
    longest_s = 0.0
    while not call.done():
        start_s = time.monotonic()
        await beside.GetModel(pb.GetModelRequest())
        longest_s = max(longest_s, time.monotonic() - start_s)
        await asyncio.sleep(0.002)
    return await call, longest_s
