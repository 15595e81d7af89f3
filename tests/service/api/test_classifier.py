"""`Classify` and `GetModel` over a real socket."""

import asyncio
import logging
import threading
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
from grpc import StatusCode

from service.api.classifier import ClassifierServicer
from service.api.inference import Inference
from service.api.interceptors import CallInterceptor
from service.batching.batcher import Batcher
from service.batching.decoder import Decoder
from service.models.instance import ModelInstance
from service.models.metadata import ModelMetadata
from service.observability.metrics import Metrics
from service.pb import classifier_pb2 as pb
from service.pb import classifier_pb2_grpc as pb_grpc
from service.pixels.budget import Budget
from service.server.methods import Methods


class FakeModel:
    """A model in Python that a test can hold or break."""

    metadata = ModelMetadata(labels=("red", "green", "blue"), image_size=8, resize="rule")
    properties: dict[str, str] = {}  # noqa: RUF012
    provider = "Fake"

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.num_images = 0
        self.error: Exception | None = None

    def predict(self, images_NHWC):
        self.num_images += len(images_NHWC)
        assert self.gate.wait(20)
        if self.error:
            raise self.error
        return np.full((len(images_NHWC), 3), 1 / 3, np.float32)


@pytest.fixture
async def fake(connect):
    """Yield a real server before a fake model: `.stub`, `.model`, `.metrics`; at most 64 images."""
    model, metrics = FakeModel(), Metrics()
    batcher = Batcher(model.predict, metrics=metrics, queue_size=64, workers=1)
    instance = ModelInstance(name="fake", version=1, model=model, batcher=batcher)
    interceptor = CallInterceptor(metrics)
    server, methods = grpc.aio.server(), Methods(interceptor.wrapped)
    decoder = Decoder(1, metrics, Budget(2**20))
    stopping = asyncio.Event()
    servicer = ClassifierServicer(
        lambda *_: instance, Inference(decoder, metrics), interceptor.timed("stream"), stopping
    )
    pb_grpc.add_ClassifierServicer_to_server(servicer, methods)
    methods.add_to(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield SimpleNamespace(stub=connect(port), model=model, metrics=metrics, stopping=stopping)
    model.gate.set()
    await server.stop(5)
    await batcher.close()
    decoder.close()


@pytest.fixture
async def stub(publish, serve, connect):
    """Return a stub of a server with one real model, `food`, that answers with a photo's colour."""
    publish("food")
    return connect((await serve()).port)


async def refusal(call) -> grpc.aio.AioRpcError:
    """Return the error that the call must end with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_every_image_gets_its_classes_in_order(stub, photo):
    """Results stand in the order of the images, classes by falling probability."""
    answer = await stub.Classify(
        pb.ClassifyRequest(
            images=[photo("blue"), photo("red", kind="PNG"), photo("green", kind="WEBP")]
        )
    )
    assert ["blue", "red", "green"] == [each.classes[0].label for each in answer.results]
    assert [2, 0, 1] == [each.classes[0].index for each in answer.results]
    for result in answer.results:
        probabilities = [each.probability for each in result.classes]
        assert sorted(probabilities, reverse=True) == probabilities
        assert pytest.approx(1, abs=1e-5) == sum(probabilities)
    assert ("food", 1) == (answer.model, answer.model_version)


async def test_one_bad_image_spares_the_others(stub, photo):
    """An undecodable image gets its own INVALID_ARGUMENT."""
    answer = await stub.Classify(pb.ClassifyRequest(images=[b"junk", photo("red"), b""]))
    bad, good, empty = answer.results
    assert StatusCode.INVALID_ARGUMENT.value[0] == bad.error.code == empty.error.code
    assert bad.error.message
    assert not bad.classes
    assert not good.HasField("error")
    assert "red" == good.classes[0].label


async def test_call_of_bad_images_alone_is_answered(stub):
    """Not one good image: still an answer, with an error for each."""
    answer = await stub.Classify(pb.ClassifyRequest(images=[b"junk"] * 3))
    assert [3] * 3 == [each.error.code for each in answer.results]


@pytest.mark.parametrize(("top_k", "expected"), [(0, 5), (1, 1), (6, 6), (100, 7)])
async def test_top_k(publish, serve, connect, photo, top_k, expected):
    """0 means 5; more than there are means all."""
    publish("food", labels=list("abcdefg"))
    stub = connect((await serve()).port)
    answer = await stub.Classify(pb.ClassifyRequest(images=[photo("red")], top_k=top_k))
    assert expected == len(answer.results[0].classes)


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (pb.ClassifyRequest(), "1 to 64"),
        (pb.ClassifyRequest(images=[b"x"] * 65), "not 65"),
        (pb.ClassifyRequest(images=[b"x"], top_k=-1), "top_k"),
    ],
)
async def test_wrong_requests_are_refused(stub, request_, sentence):
    """A call outside the limits is INVALID_ARGUMENT, with a sentence that says the limit."""
    error = await refusal(stub.Classify(request_))
    assert StatusCode.INVALID_ARGUMENT == error.code()
    assert sentence in error.details()


async def test_most_images_are_accepted(stub, photo):
    """64 images are a call, though a batch is smaller."""
    colours = ["red", "green", "blue", "green"] * 16
    answer = await stub.Classify(pb.ClassifyRequest(images=[photo(each) for each in colours]))
    assert colours == [each.classes[0].label for each in answer.results]


async def test_unknown_model_is_not_found(stub, photo):
    """The sentence names what there is; a name is never a path."""
    for name in ("other", "../food"):
        error = await refusal(stub.Classify(pb.ClassifyRequest(images=[photo("red")], model=name)))
        assert StatusCode.NOT_FOUND == error.code()
        assert "there is food" in error.details()
    assert (
        StatusCode.NOT_FOUND == (await refusal(stub.GetModel(pb.GetModelRequest(model="x")))).code()
    )


async def test_several_models_are_told_apart_by_name(publish, serve, connect, photo):
    """With two models a name is needed, and each answers with its own labels."""
    publish("food")
    publish("drink", labels=("wine", "tea", "milk"))
    stub = connect((await serve()).port)
    request = pb.ClassifyRequest(images=[photo("red")], top_k=1)
    error = await refusal(stub.Classify(request))
    assert StatusCode.INVALID_ARGUMENT == error.code()
    assert "drink, food" in error.details()
    for name, label in (("food", "red"), ("drink", "wine")):
        request.model = name
        answer = await stub.Classify(request)
        assert (name, label) == (answer.model, answer.results[0].classes[0].label)


async def test_get_model_describes_what_serves(stub):
    """Labels, version, size, provider and accuracy; what was not measured is unset."""
    model = await stub.GetModel(pb.GetModelRequest())
    assert ("food", 1, 8) == (model.name, model.version, model.image_size_px)
    assert ["red", "green", "blue"] == list(model.labels)
    assert "CPUExecutionProvider" == model.provider
    assert 0.75 == model.val_top1
    assert not model.HasField("test_top1")
    assert "tiny-run" == model.run_id == model.properties["run_id"]


async def test_messages_are_bounded(publish, serve, connect):
    """More than gRPC's 4 MB is taken, more than the server's own limit is not."""
    publish("food")
    stub = connect((await serve(max_message_bytes=6 * 2**20)).port)
    answer = await stub.Classify(pb.ClassifyRequest(images=[bytes(5 * 2**20)]))
    assert StatusCode.INVALID_ARGUMENT.value[0] == answer.results[0].error.code
    error = await refusal(stub.Classify(pb.ClassifyRequest(images=[bytes(7 * 2**20)])))
    assert StatusCode.RESOURCE_EXHAUSTED == error.code()


async def test_overload_is_refused_at_once(fake, photo, eventually):
    """A call that finds no place fails while the others still wait, and they are answered."""
    held = asyncio.ensure_future(fake.stub.Classify(pb.ClassifyRequest(images=[photo("red")] * 64)))
    await eventually(lambda: fake.model.num_images)
    error = await refusal(fake.stub.Classify(pb.ClassifyRequest(images=[photo("red")])))
    assert StatusCode.RESOURCE_EXHAUSTED == error.code()
    assert "try again later" in error.details()
    fake.model.gate.set()
    assert 64 == len((await held).results)
    assert 1 == fake.metrics.registry.get_sample_value(
        "hansang_rejected_images_total", {"reason": "queue_full"}
    )


@pytest.mark.parametrize("way", ["cancel", "deadline"])
async def test_call_that_is_given_up_is_not_computed(fake, photo, eventually, way):
    """Cancelled, or out of time in the queue: the model never sees the images."""

    def admitted() -> float:
        return fake.metrics.registry.get_sample_value("hansang_admitted_images")

    first = asyncio.ensure_future(fake.stub.Classify(pb.ClassifyRequest(images=[photo("red")])))
    await eventually(lambda: fake.model.num_images == 1)
    call = fake.stub.Classify(
        pb.ClassifyRequest(images=[photo("red")] * 5), timeout=0.3 if way == "deadline" else None
    )
    await eventually(lambda: fake.metrics.registry.get_sample_value("hansang_queued_images") == 5)
    if way == "cancel":
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    else:
        assert StatusCode.DEADLINE_EXCEEDED == (await refusal(call)).code()
    await eventually(lambda: admitted() == 1)
    fake.model.gate.set()
    await first
    assert 1 == fake.model.num_images


async def test_unknown_errors_are_logged_and_not_leaked(fake, photo, caplog):
    """A caller of a broken server reads 'internal error'; the log has the reason."""
    fake.model.error = RuntimeError("secret path")
    fake.model.gate.set()
    with caplog.at_level(logging.ERROR):
        error = await refusal(fake.stub.Classify(pb.ClassifyRequest(images=[photo("red")])))
    assert (StatusCode.INTERNAL, "internal error") == (error.code(), error.details())
    assert "secret path" in caplog.text
