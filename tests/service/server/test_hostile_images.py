"""Images that are made to stop the event loop: others are answered all the while."""

import asyncio
import time

import pytest

from service.pb import classifier_pb2 as pb
from tests.service.pixels.pictures import chunk, lying_jpeg, png, segment

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
    await beside.GetModel(pb.GetModelRequest())
    call = asyncio.ensure_future(stub.Classify(pb.ClassifyRequest(images=[HOSTILE[kind]] * 64)))
    longest_s = 0.0
    while not call.done():
        start_s = time.monotonic()
        await beside.GetModel(pb.GetModelRequest())
        longest_s = max(longest_s, time.monotonic() - start_s)
        await asyncio.sleep(0.002)
    assert all(result.HasField("error") for result in (await call).results)
    assert longest_s < 1
