"""ClassifyStream over a real socket: order, errors, room, drain, and callers that vanish."""

import asyncio

import grpc
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service.api.streams import WINDOW, in_order
from service.pb import classifier_pb2 as pb


def requests(*images: bytes, top_k: int = 1, model: str = "") -> list[pb.ClassifyRequest]:
    """Return a request per image."""
    return [pb.ClassifyRequest(images=[image], top_k=top_k, model=model) for image in images]


def gauge(server, name: str, **labels: str) -> float | None:
    """Return a figure of the server's metrics."""
    return server.metrics.registry.get_sample_value(f"hansang_{name}", labels)


def retry_after_s(error: grpc.aio.AioRpcError) -> float | None:
    """Return RetryInfo of an error, in seconds."""
    metadata = dict(error.trailing_metadata() or ())
    if "grpc-status-details-bin" not in metadata:
        return None
    status = Status.FromString(metadata["grpc-status-details-bin"])
    assert status.code == error.code().value[0]
    info = RetryInfo()
    assert status.details[0].Unpack(info)
    return info.retry_delay.ToNanoseconds() / 1e9


async def test_answers_come_in_order(publish, serve, connect, photo):
    """Many requests in a stream: each is answered, in its order, with the version that did it."""
    publish("food")
    stub = connect((await serve()).port)
    colours = ["red", "green", "blue", "green"] * 20
    answers = [each async for each in stub.ClassifyStream(requests(*map(photo, colours)))]
    assert colours == [answer.results[0].classes[0].label for answer in answers]
    assert {("food", 1)} == {(answer.model, answer.model_version) for answer in answers}


async def test_a_wrong_request_does_not_end_the_stream(publish, serve, connect, photo):
    """It is answered with its error; a bad image with its own; the others with classes."""
    publish("food")
    stub = connect((await serve()).port)
    sent = [
        *requests(photo("red")),
        *requests(photo("red"), model="other"),
        pb.ClassifyRequest(images=[b"junk"]),
        pb.ClassifyRequest(),
        *requests(photo("blue")),
    ]
    first, other, junk, empty, last = [each async for each in stub.ClassifyStream(sent)]
    assert "red" == first.results[0].classes[0].label
    assert StatusCode.NOT_FOUND.value[0] == other.error.code
    assert StatusCode.INVALID_ARGUMENT.value[0] == junk.results[0].error.code
    assert (StatusCode.INVALID_ARGUMENT.value[0], 0) == (empty.error.code, len(empty.results))
    assert "blue" == last.results[0].classes[0].label


async def test_a_full_server_makes_streams_wait(publish, serve, connect, photo, eventually):
    """More than there is room for: nothing is refused, and never is more admitted than allowed."""
    publish("food", loops=300)
    server = await serve(queue_size=64, max_batch=4)
    stub = connect(server.port)
    call = pb.ClassifyRequest(images=[photo("red")] * 40, top_k=1)
    most = 0.0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, gauge(server, "admitted_images"))
            await asyncio.sleep(0.001)

    async def bulk() -> int:
        answers = [each async for each in stub.ClassifyStream([call] * 6)]
        return sum(len(answer.results) for answer in answers)

    watching = asyncio.create_task(watch())
    assert [240] * 3 == await asyncio.gather(bulk(), bulk(), bulk())
    watching.cancel()
    assert 40 <= most <= 64
    assert 0 == gauge(server, "admitted_images") == gauge(server, "bytes_in_flight")
    assert 0 == gauge(server, "rejected_images_total", reason="queue_full")


async def test_interactive_calls_find_room_beside_bulk(publish, serve, connect, photo):
    """Streams that take all they can get leave a quarter of the places to those who wait."""
    publish("food", loops=300)
    server = await serve(queue_size=256, max_batch=4)
    stub = connect(server.port)
    bulk = pb.ClassifyRequest(images=[photo("red")] * 64, top_k=1)
    streams = [stub.ClassifyStream([bulk] * 8) for _ in range(4)]
    for stream in streams:
        await stream.read()
    for _ in range(20):
        await stub.Classify(pb.ClassifyRequest(images=[photo("blue")] * 16), timeout=20)
    for stream in streams:
        stream.cancel()


async def test_a_drain_answers_what_was_read_and_ends_the_stream(
    publish, serve, connect, photo, eventually
):
    """The stream ends with UNAVAILABLE, at once to be tried again; every answer was whole."""
    publish("food", loops=200_000)
    server = await serve(max_batch=1)
    stub = connect(server.port)
    call = stub.ClassifyStream()
    for request in requests(*[photo("red")] * WINDOW):
        await call.write(request)
    await eventually(lambda: gauge(server, "admitted_images") == WINDOW)
    stopping = asyncio.create_task(server.stop())
    answers = []
    with pytest.raises(grpc.aio.AioRpcError) as caught:  # noqa: PT012
        while (answer := await call.read()) is not grpc.aio.EOF:
            answers.append(answer.results[0].classes[0].label)
        raise await call.code() and grpc.aio.AioRpcError(  # an end is an error here
            await call.code(), await call.initial_metadata(), await call.trailing_metadata(),
            await call.details(),
        )  # fmt: skip
    await stopping
    assert ["red"] * WINDOW == answers
    assert StatusCode.UNAVAILABLE == caught.value.code()
    assert 0 == retry_after_s(caught.value)


@pytest.mark.parametrize("way", ["cancel", "close"])
async def test_a_caller_that_vanishes_leaves_nothing(
    publish, serve, connect, photo, eventually, way
):
    """In mid-stream, with work waiting: places, bytes and the stream itself are freed."""
    publish("food", loops=30_000)
    server = await serve(max_batch=1)
    channel = connect.channel(server.port)
    from service.pb.classifier_pb2_grpc import ClassifierStub

    call = ClassifierStub(channel).ClassifyStream()
    for request in requests(*[photo("red")] * WINDOW * 2):
        await call.write(request)
    await eventually(lambda: gauge(server, "admitted_images") == WINDOW)
    if way == "cancel":
        call.cancel()
    else:
        await channel.close()
    await eventually(
        lambda: (
            0
            == gauge(server, "admitted_images")
            == gauge(server, "bytes_in_flight")
            == gauge(server, "open_streams", method="/hansang.v1.Classifier/ClassifyStream")
        )
    )
    other = await connect(server.port).Classify(pb.ClassifyRequest(images=[photo("blue")], top_k=1))
    assert "blue" == other.results[0].classes[0].label


async def test_streams_are_bounded(publish, serve, connect, photo):
    """One more than allowed is refused with RetryInfo; watching health is counted apart."""
    publish("food")
    server = await serve(max_streams=2)
    stub = connect(server.port)
    held = [stub.ClassifyStream() for _ in range(2)]
    for call in held:
        await call.write(*requests(photo("red")))
        await call.read()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ClassifyStream(requests(photo("red"))).read()
    assert StatusCode.RESOURCE_EXHAUSTED == caught.value.code()
    assert 0 < retry_after_s(caught.value)
    watch = health_pb2_grpc.HealthStub(connect.channel(server.port)).Watch(
        health_pb2.HealthCheckRequest()
    )
    assert health_pb2.HealthCheckResponse.SERVING == (await watch.read()).status
    for call in held:
        await call.done_writing()
        assert grpc.aio.EOF is await call.read()
    answers = [each async for each in stub.ClassifyStream(requests(photo("red")))]
    assert 1 == len(answers)


async def test_bytes_in_flight_are_bounded(publish, serve, connect, photo, eventually):
    """Calls beyond the limit are refused with RetryInfo, streams wait; neither costs the others."""
    publish("food", loops=100_000)
    server = await serve(max_batch=1, max_bytes_in_flight=2**20)
    stub = connect(server.port)
    large = photo("red").ljust(700_000, b"\0")
    first = asyncio.ensure_future(stub.Classify(pb.ClassifyRequest(images=[large], top_k=1)))
    await eventually(lambda: gauge(server, "bytes_in_flight") == len(large))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Classify(pb.ClassifyRequest(images=[large]))
    assert StatusCode.RESOURCE_EXHAUSTED == caught.value.code()
    assert 0 < retry_after_s(caught.value)
    assert 1 == gauge(server, "rejected_images_total", reason="bytes_full")
    small = asyncio.ensure_future(stub.Classify(pb.ClassifyRequest(images=[photo("blue")])))
    answers = [each async for each in stub.ClassifyStream(requests(large, large))]
    assert ["red"] * 2 == [each.results[0].classes[0].label for each in answers]
    assert "red" == (await first).results[0].classes[0].label
    await small


async def test_at_most_a_window_is_read_ahead():
    """A stream whose work stands still is not read on."""
    read = []

    async def source():
        for number in range(100):
            read.append(number)
            yield number

    gate = asyncio.Event()

    async def answer(number: int) -> int:
        await gate.wait()
        return number

    answers = in_order(source(), answer, asyncio.Event())
    first = asyncio.ensure_future(anext(answers))
    await asyncio.sleep(0.05)
    assert WINDOW == len(read)
    gate.set()
    assert 0 == await first
    assert list(range(1, 100)) == [each async for each in answers]


async def test_a_stream_that_sends_nothing_gives_its_place_back(
    publish, serve, connect, photo, monkeypatch
):
    """Its first message must come soon; one that has sent something may rest."""
    monkeypatch.setattr("service.api.interceptors._FIRST_S", 0.3)
    publish("food")
    server = await serve(max_streams=2)
    stub = connect(server.port)
    resting = stub.ClassifyStream()
    await resting.write(requests(photo("red"))[0])
    assert (await resting.read()).results[0].classes

    silent = stub.ClassifyStream()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await silent.read()

    assert StatusCode.RESOURCE_EXHAUSTED == caught.value.code()
    assert "no message came within 0.3 s" in caught.value.details()
    assert retry_after_s(caught.value) is not None
    assert 1 == gauge(server, "rejected_images_total", reason="message_slow")
    await asyncio.sleep(0.5)
    await resting.write(requests(photo("blue"))[0])
    assert "blue" == (await resting.read()).results[0].classes[0].label
    await resting.done_writing()
