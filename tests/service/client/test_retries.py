"""What the client tries again, how often, and after which pauses."""

import asyncio
from time import monotonic

import grpc
import pytest

from service.api.statuses import status
from service.client.client import AsyncClassifier, Classifier
from service.errors import (
    InvalidArgumentError,
    OverloadedError,
    ServiceError,
    UnavailableError,
)
from service.pb import classifier_pb2 as pb


class Answering:
    """A server that refuses some calls first, as it is told."""

    def __init__(self, *codes, retry_after_s=None):
        self.codes, self.calls, self.retry_after_s = list(codes), [], retry_after_s

    async def Classify(self, request, context):  # noqa: N802
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
@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED])
async def test_a_refusal_is_tried_again_after_what_the_server_asks(answering, client, code):
    """Two refusals and an answer: the pauses are those of RetryInfo."""
    servicer = Answering(*[code] * 2, retry_after_s=0.3)
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
    retriable = code is grpc.StatusCode.RESOURCE_EXHAUSTED
    servicer = Answering(code, retry_after_s=None if retriable else 0)
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
