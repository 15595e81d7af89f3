"""The Python client against a real server: order, chunks, bad photos, and errors that help."""

import asyncio
import socket
from time import monotonic

import grpc
import pytest

from service.api.interceptors import status
from service.client.client import AsyncClassifier, Class, Classifier, Result
from service.errors import (
    DeadlineError,
    InvalidArgumentError,
    NotFoundError,
    OverloadedError,
    ServiceError,
    UnavailableError,
)
from service.pb import classifier_pb2 as pb


@pytest.fixture
async def client(publish, serve):
    """`await client()` is a client of a server with the model `food`."""
    opened = []

    async def open_client(*, build: dict | None = None, timeout_s: float = 30, **changes):
        publish("food", **(build or {}))
        server = await serve(**changes)
        opened.append(Classifier(f"127.0.0.1:{server.port}", timeout_s=timeout_s))
        return opened[-1]

    yield open_client
    for each in opened:
        each.close()


async def test_photos_are_answered_in_their_order(client, photo):
    """Each photo gets its own result, the likeliest class first."""
    classifier = await client()
    colours = ["blue", "red", "green"]
    results = await asyncio.to_thread(classifier.classify, [photo(each) for each in colours])
    assert colours == [result.classes[0].label for result in results]
    for result in results:
        assert ("food", 1) == (result.model, result.model_version)
        assert (None, None) == (result.error, result.code)
        assert all(isinstance(found, Class) for found in result.classes)
        probabilities = [found.probability for found in result.classes]
        assert sorted(probabilities, reverse=True) == probabilities
        assert 1 == pytest.approx(sum(probabilities), abs=1e-5)


async def test_top_k_bounds_the_classes(client, photo):
    """Only so many classes come back."""
    classifier = await client()
    (result,) = await asyncio.to_thread(classifier.classify, [photo("red")], top_k=1)
    assert ["red"] == [found.label for found in result.classes]


async def test_many_photos_are_several_calls(client, photo):
    """More than a call takes are cut, by number and by bytes; the order stays."""
    classifier = await client()
    # 50 photos of 1 MiB are more bytes than one call carries, and 150 are more than 64.
    padded = {each: photo(each).ljust(2**20, b"\0") for each in ("red", "blue")}
    for colours, images in (
        (["red", "green", "blue"] * 50, None),
        (["red", "blue"] * 25, padded),
    ):
        sent = [images[each] if images else photo(each) for each in colours]
        results = await asyncio.to_thread(classifier.classify, sent, top_k=1)
        assert colours == [result.classes[0].label for result in results]


async def test_no_photos_is_no_call():
    """Nothing asked, nothing answered, and no server is needed for it."""
    with Classifier("localhost:1") as classifier:
        assert [] == classifier.classify([])


async def test_bad_photo_spares_the_others(client, photo):
    """Junk, nothing, and bytes that no message holds each get an error of their own."""
    classifier = await client()
    images = [photo("red"), b"junk", b"", bytes(65 * 2**20), photo("blue")]
    results = await asyncio.to_thread(classifier.classify, images, top_k=1)
    assert ["red", "blue"] == [found.label for result in results for found in result.classes]
    assert [True, False, False, False, True] == [result.error is None for result in results]
    assert {grpc.StatusCode.INVALID_ARGUMENT} == {result.code for result in results[1:4]}
    assert "not a JPEG, PNG or WebP" in results[1].error
    assert "68157440 bytes" in results[3].error


async def test_model_is_described(client):
    """`model()` tells what the file says of itself."""
    classifier = await client(build={"labels": ("김밥", "냉면", "blue"), "image_size": 16})
    info = await asyncio.to_thread(classifier.model)
    assert ("food", 1, 16) == (info.name, info.version, info.image_size)
    assert ("김밥", "냉면", "blue") == info.labels
    assert 0.75 == info.val_top1
    assert "CPUExecutionProvider" == info.provider


async def test_wrong_requests_are_the_services_errors(client, photo):
    """An error of a whole call arrives as the class that the service raised."""
    classifier = await client()
    with pytest.raises(NotFoundError, match=r"'drink'.*there is food"):
        await asyncio.to_thread(classifier.model, "drink")
    with pytest.raises(InvalidArgumentError, match="top_k"):
        await asyncio.to_thread(classifier.classify, [photo("red")], top_k=-1)


async def test_overload_is_told(client, photo):
    """Of two calls for a queue that holds one, one is answered, and one is an OverloadedError."""
    classifier = await client(build={"loops": 3_000}, max_batch=1, queue_size=64)
    calls = [asyncio.to_thread(classifier.classify, [photo("red")] * 64) for _ in range(2)]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert {list, OverloadedError} == {type(outcome) for outcome in outcomes}


async def test_slow_answer_is_a_deadline_error(client, photo):
    """`timeout_s` bounds a call, and the error says for how long it waited."""
    classifier = await client(build={"loops": 100_000}, timeout_s=0.05, drain_s=0)
    with pytest.raises(DeadlineError, match=r"within 0\.05 s"):
        await asyncio.to_thread(classifier.classify, [photo("red")])


def test_no_service_says_how_to_start_one(photo, monkeypatch):
    """Nothing listens: the sentence names the address and the command. A proxy is not asked."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but it does not listen
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with (
            Classifier(address) as classifier,
            pytest.raises(UnavailableError, match=rf"{address}.*hansang serve"),
        ):
            classifier.classify([photo("red")])


def test_address_needs_a_port():
    """Without a port gRPC would call 443 and wait: the mistake is told at once."""
    with pytest.raises(InvalidArgumentError, match="localhost:8500"):
        Classifier("localhost")


def bulk_of(classifier, images, **options) -> list:
    """Return the results of a bulk."""
    return list(classifier.bulk(images, **options))


async def asyncio_bulk_of(port, images, **options) -> list:
    """Return the results of a bulk of the asyncio client."""
    async with AsyncClassifier(f"127.0.0.1:{port}") as classifier:
        return [each async for each in classifier.bulk(images, **options)]


async def test_bulk_keeps_the_order_and_the_places(publish, serve, photo):
    """Hundreds of photos, bad ones and such that were never read, by either client."""
    publish("food")
    server = await serve()
    colours = ["red", "green", "blue"] * 100
    images: list = [photo(each) for each in colours]
    images[7], images[8], images[299] = b"junk", Result(error="lost"), Result(error="lost too")

    def threaded() -> list:
        with Classifier(f"127.0.0.1:{server.port}") as classifier:
            return bulk_of(classifier, iter(images), top_k=1)

    for results in (
        await asyncio.to_thread(threaded),
        await asyncio_bulk_of(server.port, images, top_k=1),
    ):
        assert 300 == len(results)
        assert "not a JPEG" in results[7].error
        assert ("lost", "lost too") == (results[8].error, results[299].error)
        for at, (colour, result) in enumerate(zip(colours, results, strict=True)):
            if at not in (7, 8, 299):
                assert (colour, 1) == (result.classes[0].label, result.model_version)


async def test_bulk_of_nothing_is_nothing(publish, serve):
    """No photo, or none that could be read: no request is made up for them."""
    publish("food")
    server = await serve()
    with Classifier(f"127.0.0.1:{server.port}") as classifier:
        for images in ([], [Result(error="lost")] * 3):
            assert images == await asyncio.to_thread(bulk_of, classifier, images)
            assert images == await asyncio_bulk_of(server.port, images)


async def test_bulk_reads_no_further_than_its_window(publish, serve, photo):
    """Thousands of photos are never in memory together: 8 requests of 16 at most."""
    publish("food")
    server = await serve()
    read = 0

    def source():
        nonlocal read
        for _ in range(1000):
            read += 1
            yield photo("red")

    with Classifier(f"127.0.0.1:{server.port}") as classifier:
        answers = classifier.bulk(source())
        for answered in range(1, 200):
            await asyncio.to_thread(next, answers)
            assert read <= answered + 9 * 16
        answers.close()


async def test_bulk_raises_what_reading_raised(publish, serve, photo):
    """An error in the caller's own iterable reaches the caller, from either client."""
    publish("food")
    server = await serve()

    def source():
        yield from [photo("red")] * 20
        raise RuntimeError("disk on fire")

    with (
        Classifier(f"127.0.0.1:{server.port}") as classifier,
        pytest.raises(RuntimeError, match="on fire"),
    ):
        await asyncio.to_thread(bulk_of, classifier, source())
    with pytest.raises(RuntimeError, match="on fire"):
        await asyncio_bulk_of(server.port, source())


async def test_bulk_refused_is_an_error(publish, serve, photo):
    """A model that is not there ends a bulk with what the service says."""
    publish("food")
    server = await serve()
    with (
        Classifier(f"127.0.0.1:{server.port}") as classifier,
        pytest.raises(NotFoundError, match="there is food"),
    ):
        await asyncio.to_thread(bulk_of, classifier, [photo("red")], model="wine")
    with pytest.raises(NotFoundError, match="there is food"):
        await asyncio_bulk_of(server.port, [photo("red")], model="wine")


@pytest.mark.parametrize("client", ["sync", "asyncio"])
async def test_bulk_goes_on_after_a_restart(publish, process, photo, client):
    """The server is killed and started again in mid-stream: every photo is answered once."""
    publish("food", loops=2_000)
    server = process(max_batch=1)
    colours = ["red", "green", "blue"] * 150
    results = []
    seen = asyncio.Event()
    loop = asyncio.get_running_loop()

    def take(result) -> None:
        results.append(result)
        if len(results) == 60:
            loop.call_soon_threadsafe(seen.set)

    def threaded() -> None:
        with Classifier(f"127.0.0.1:{server.port}", retries=20) as classifier:
            for result in classifier.bulk(map(photo, colours), top_k=1):
                take(result)

    async def single() -> None:
        async with AsyncClassifier(f"127.0.0.1:{server.port}", retries=20) as classifier:
            async for result in classifier.bulk(map(photo, colours), top_k=1):
                take(result)

    work = asyncio.ensure_future(asyncio.to_thread(threaded) if client == "sync" else single())
    await asyncio.wait({work, asyncio.ensure_future(seen.wait())}, return_when="FIRST_COMPLETED")
    server.kill()
    server.wait()
    await asyncio.to_thread(process, max_batch=1, port=server.port)
    await work
    assert colours == [result.classes[0].label for result in results]


class Answering:
    """A server that refuses some calls first, as it is told."""

    def __init__(self, *codes, retry_after_s=None):
        self.codes, self.calls, self.retry_after_s = list(codes), [], retry_after_s

    async def Classify(self, request, context):  # noqa: ARG002, N802
        self.calls.append(monotonic())
        if self.codes:
            error = UnavailableError("not now", retry_after_s=self.retry_after_s)
            code = self.codes.pop(0)
            details = (
                (("grpc-status-details-bin", status(error).SerializeToString()),)
                if self.retry_after_s is not None
                else ()
            )
            await context.abort(code, "not now", details)
        return pb.ClassifyResponse(
            results=[pb.ImageResult(classes=[pb.Class(label="red", probability=1)])]
        )


@pytest.fixture
async def answering():
    """`await answering(servicer)` serves it and returns its address."""
    servers = []

    async def start(servicer) -> str:
        server = grpc.aio.server()
        handler = grpc.unary_unary_rpc_method_handler(
            servicer.Classify,
            request_deserializer=pb.ClassifyRequest.FromString,
            response_serializer=pb.ClassifyResponse.SerializeToString,
        )
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("hansang.v1.Classifier", {"Classify": handler}),)
        )
        servers.append(server)
        address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        return address

    yield start
    for server in servers:
        await server.stop(None)


@pytest.mark.parametrize("client", ["sync", "asyncio"])
async def test_unavailable_is_tried_again_after_what_the_server_asks(answering, client):
    """Two refusals and an answer: the pauses are those of RetryInfo."""
    servicer = Answering(*[grpc.StatusCode.UNAVAILABLE] * 2, retry_after_s=0.3)
    address = await answering(servicer)
    if client == "sync":
        with Classifier(address) as classifier:
            (result,) = await asyncio.to_thread(classifier.classify, [b"x"])
    else:
        async with AsyncClassifier(address) as classifier:
            (result,) = await classifier.classify([b"x"])
    assert "red" == result.classes[0].label
    first, second, third = servicer.calls
    assert 0.3 <= second - first < 0.6
    assert 0.3 <= third - second < 0.6


async def test_without_retry_info_the_pauses_double(answering):
    """About 0.1, 0.2 and 0.4 s, less what chance takes off."""
    servicer = Answering(*[grpc.StatusCode.UNAVAILABLE] * 3)
    async with AsyncClassifier(await answering(servicer)) as classifier:
        await classifier.classify([b"x"])
    pauses = [b - a for a, b in zip(servicer.calls, servicer.calls[1:], strict=False)]
    for pause, longest in zip(pauses, (0.1, 0.2, 0.4), strict=True):
        assert longest / 2 <= pause < longest + 0.2


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (grpc.StatusCode.RESOURCE_EXHAUSTED, OverloadedError),
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidArgumentError),
        (grpc.StatusCode.INTERNAL, ServiceError),
    ],
)
async def test_nothing_else_is_tried_again(answering, code, error):
    """A call that may have been begun, or would fail again, is made once."""
    servicer = Answering(code, retry_after_s=0)
    async with AsyncClassifier(await answering(servicer)) as classifier:
        with pytest.raises(error):
            await classifier.classify([b"x"])
    assert 1 == len(servicer.calls)


async def test_retries_end_in_number_and_in_time(answering):
    """`retries` bounds how often, `timeout_s` how long; the error is the service's own."""
    for settings, calls in (({"retries": 2}, 3), ({"retries": 0}, 1), ({"timeout_s": 0.25}, 2)):
        servicer = Answering(*[grpc.StatusCode.UNAVAILABLE] * 100, retry_after_s=0.2)
        async with AsyncClassifier(await answering(servicer), **settings) as classifier:
            with pytest.raises(UnavailableError, match="not now") as caught:
                await classifier.classify([b"x"])
        assert calls == len(servicer.calls)
        assert 0.2 == caught.value.retry_after_s
