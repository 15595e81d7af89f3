"""What refused callers are told: when to try again, in short, and that a token was withdrawn."""

import asyncio
import json
import socket

import grpc
import pytest
from grpc import StatusCode

from service.api.auth import entry, new_token
from service.client.client import AsyncClassifier
from service.observability import metrics
from service.pb import classifier_pb2 as pb
from service.pb import classifier_pb2_grpc as rpc
from service.pb import inference_pb2, inference_pb2_grpc

RETRY = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{"service": "hansang.v1.Classifier"}],
                "retryPolicy": {
                    "maxAttempts": 5,
                    "initialBackoff": "0.001s",
                    "maxBackoff": "0.001s",
                    "backoffMultiplier": 1,
                    "retryableStatusCodes": ["RESOURCE_EXHAUSTED"],
                },
            }
        ]
    }
)


@pytest.fixture
async def limited(publish, serve, tmp_path):
    """A server with one caller, who may have 4 images a second, and its token."""
    publish("food")
    token, digest = new_token()
    (tmp_path / "tokens.toml").write_text(entry("kiosk", digest, images_per_s=4))
    return await serve(tokens=tmp_path / "tokens.toml"), token


async def test_our_client_waits_as_long_as_the_server_asks(limited, photo):
    """Refused for its quota, it tries again after RetryInfo, and is answered."""
    server, token = limited
    async with AsyncClassifier(f"127.0.0.1:{server.port}", token=token) as classifier:
        await classifier.classify([photo("red")] * 5)
        assert 1 == len(await classifier.classify([photo("red")]))
    value = server.metrics.registry.get_sample_value
    assert 1 <= value("hansang_rejected_images_total", {"reason": "quota"}) <= 2


async def test_a_stock_client_with_a_retry_policy_waits_too(limited, photo):
    """GRPC's own retries heed `grpc-retry-pushback-ms`, not the 1 ms of the policy."""
    server, token = limited
    options = [("grpc.service_config", RETRY)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options) as channel:
        stub, metadata = rpc.ClassifierStub(channel), (("authorization", f"Bearer {token}"),)
        for images in (5, 1):
            request = pb.ClassifyRequest(images=[photo("red")] * images)
            await stub.Classify(request, metadata=metadata, timeout=30)
    value = server.metrics.registry.get_sample_value
    assert 1 <= value("hansang_rejected_images_total", {"reason": "quota"}) <= 2


async def test_a_withdrawn_token_ends_open_streams(limited, photo, tmp_path, eventually):
    """At the next message, in both services; what was sent before is answered."""
    server, token = limited
    metadata = (("authorization", f"Bearer {token}"),)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        streams = [
            (rpc.ClassifierStub(channel).ClassifyStream, pb.ClassifyRequest(images=[photo("red")])),
            (
                inference_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer,
                inference_pb2.ModelInferRequest(model_name="other"),
            ),
        ]
        calls = []
        for method, request in streams:
            calls.append(method(metadata=metadata))
            await calls[-1].write(request)
            assert await calls[-1].read() is not grpc.aio.EOF
        (tmp_path / "tokens.toml").write_text(entry("another", new_token()[1]))
        await eventually(lambda: "another" in {c.name for c in server._tokens._callers.values()})
        for call, (_, request) in zip(calls, streams, strict=True):
            await call.write(request)
            assert StatusCode.UNAUTHENTICATED == await call.code()
            assert "withdrawn" in await call.details()


@pytest.mark.parametrize("letter", ["x", "é"])
async def test_a_long_name_is_cut_in_the_error(publish, serve, connect, photo, letter):
    """20 kB of a name would overflow the metadata: the caller would see another error."""
    publish("food")
    stub = connect((await serve()).port)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Classify(pb.ClassifyRequest(images=[photo("red")], model=letter * 20_000))
    assert StatusCode.NOT_FOUND == caught.value.code()
    assert caught.value.details().startswith(f"no model '{letter}")
    assert len(caught.value.details().encode()) <= 1024


async def test_connections_to_the_metrics_are_bounded(publish, serve, monkeypatch, eventually):
    """Silent ones have no thread beyond the limit, and are ended; then a scrape is answered."""
    monkeypatch.setattr(metrics, "_MAX_SCRAPES", 3)
    monkeypatch.setattr(metrics, "_SCRAPE_TIMEOUT_S", 0.5)
    publish("food")
    server = await serve(metrics_port=0)
    address = ("127.0.0.1", server.metrics_port)
    silent = [socket.create_connection(address) for _ in range(10)]
    try:
        # Those that find no room are closed at once, long before the silent ones' time is over.
        ended = 0
        for each in silent[3:]:
            each.settimeout(10)
            ended += each.recv(1) == b""
        assert 7 == ended

        async def scraped() -> bytes:
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
            try:
                return await reader.readline()
            except ConnectionError:
                return b""
            finally:
                writer.close()

        async with asyncio.timeout(20):
            while b"200" not in await scraped():
                await asyncio.sleep(0.1)
    finally:
        for each in silent:
            each.close()


@pytest.mark.parametrize(
    "method",
    [
        "hansang.v1.Classifier/Classify",
        "hansang.v1.Classifier/ClassifyStream",
        "inference.GRPCInferenceService/ModelInfer",
        "inference.GRPCInferenceService/ModelStreamInfer",
    ],
)
async def test_a_message_that_is_none_is_the_callers_fault(publish, serve, connect, method, caplog):
    """INVALID_ARGUMENT for calls and for streams, and no traceback in the log."""
    publish("food")
    channel = connect.channel((await serve()).port)
    for junk in (b"\xff\xff\xff", b"\x0a\x05a"):
        call = channel.stream_stream(f"/{method}")()
        await call.write(junk)
        assert StatusCode.INVALID_ARGUMENT == await call.code()
    assert not [record for record in caplog.records if record.exc_info]
