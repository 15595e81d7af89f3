"""A server's life: start, readiness, drain, and the ways in which it refuses to start."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from service.config import ServerConfig
from service.errors import (
    InvalidArgumentError,
    ModelContractError,
    NotFoundError,
    UnavailableError,
)
from service.pb import classifier_pb2 as pb
from service.server.server import Server
from service.server.services import CLASSIFIER
from tests.paths import ROOT

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
CUDA_IS_HERE = Path("/dev/nvidiactl").exists()

RUN = """
import sys
from pathlib import Path
from service.config import ServerConfig
from service.server.process import run
from terminal import UserError
try:
    sys.exit(run(
        ServerConfig(repository=Path(sys.argv[1]), host="127.0.0.1", port=0,
                     http_port=None, metrics_port=None,
                     device=sys.argv[2], max_batch=64, runs=1, drain_s=30),
        ready=lambda line: print(line, flush=True),
    ))
except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(1)
"""


def start_process(repository: Path, device: str = "cpu") -> subprocess.Popen[str]:
    """Serve in a process of its own; its first line says where."""
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(repository), device],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


async def test_health_turns_serving_after_the_models_are_warm(publish, config, connect, photo):
    """The port answers at once, NOT_SERVING; calls are UNAVAILABLE until the models are ready."""
    publish("food")
    server = Server(config())
    await server.listen()
    try:
        channel = connect.channel(server.port)
        health = health_pb2_grpc.HealthStub(channel)
        requests = [health_pb2.HealthCheckRequest(service=name) for name in ("", CLASSIFIER)]
        assert [NOT_SERVING] * 2 == [(await health.Check(each)).status for each in requests]
        stub = connect(server.port)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Classify(pb.ClassifyRequest(images=[photo("red")]))
        assert StatusCode.UNAVAILABLE == caught.value.code()
        assert "starting" in caught.value.details()

        await server.load()
        assert [SERVING] * 2 == [(await health.Check(each)).status for each in requests]
        await stub.Classify(pb.ClassifyRequest(images=[photo("red")]))
    finally:
        await server.stop()


async def test_watchers_of_health_see_the_drain_and_do_not_hold_it_up(publish, config, connect):
    """A watcher hears SERVING, then NOT_SERVING; the server does not wait `drain_s` for it."""
    publish("food")
    server = Server(config(drain_s=1000))
    await server.start()
    health = health_pb2_grpc.HealthStub(connect.channel(server.port))
    watch = health.Watch(health_pb2.HealthCheckRequest())
    assert SERVING == (await watch.read()).status
    async with asyncio.timeout(10):
        await server.stop()
    assert NOT_SERVING == (await watch.read()).status
    assert StatusCode.UNAVAILABLE == await watch.code()


async def test_reflection_lists_the_services(publish, serve, connect):
    """A grpcurl needs no proto file."""
    publish("food")
    server = await serve()
    stub = reflection_pb2_grpc.ServerReflectionStub(connect.channel(server.port))
    call = stub.ServerReflectionInfo(
        iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    )
    names = [each.name async for answer in call for each in answer.list_services_response.service]
    assert {"hansang.v1.Classifier", "grpc.health.v1.Health"} <= set(names)


def test_sigterm_drains(publish, tmp_path, photo):
    """A call in flight is answered, later ones are refused, and the exit code is 0."""
    from service.pb.classifier_pb2_grpc import ClassifierStub

    publish("slow", loops=200_000)
    with start_process(tmp_path / "models") as process:
        line = process.stdout.readline()
        assert "slow version 1 on CPUExecutionProvider" in line, process.stderr.read()
        with grpc.insecure_channel(line.split()[-1]) as channel:
            stub, health = ClassifierStub(channel), health_pb2_grpc.HealthStub(channel)
            request = pb.ClassifyRequest(images=[photo("red")], top_k=1)
            call = stub.Classify.future(request, timeout=60)
            # The server takes calls in order: once it answers this one, it has the other.
            health.Check(health_pb2.HealthCheckRequest(), timeout=60)
            process.send_signal(signal.SIGTERM)
            assert "red" == call.result().results[0].classes[0].label
            assert 0 == process.wait(30)
            with pytest.raises(grpc.RpcError) as caught:
                stub.Classify(request, timeout=60)
            assert StatusCode.UNAVAILABLE == caught.value.code()


@pytest.mark.skipif(CUDA_IS_HERE, reason="there is a CUDA device here")
def test_cuda_that_cannot_be_had_is_fatal(publish, tmp_path):
    """`--device cuda` never falls back: the exit code is not 0 and the sentence says why."""
    publish("food")
    with start_process(tmp_path / "models", "cuda") as process:
        out, err = process.communicate(timeout=60)
    assert (1, "") == (process.returncode, out)
    assert "device cuda" in err
    assert "Traceback" not in err


@pytest.mark.skipif(CUDA_IS_HERE, reason="there is a CUDA device here")
async def test_auto_falls_back_and_says_so(publish, serve, caplog):
    """`--device auto` serves on the CPU where CUDA cannot be had, and the log has it."""
    publish("food")
    with caplog.at_level("INFO"):
        server = await serve(device="auto")
    assert "CPUExecutionProvider" == server.models.find("food").model.provider
    assert "serving on the CPU" in caplog.text


async def test_empty_repository_says_what_to_do(tmp_path, config):
    """Nothing to serve is an error with the next command in it, not a server without a model."""
    with pytest.raises(NotFoundError, match="hansang release"):
        await Server(config(repository=tmp_path / "none")).start()


async def test_asked_for_model_must_be_there(publish, config):
    """`model` names one of the repository; the sentence repeats it."""
    publish("food")
    with pytest.raises(NotFoundError, match="'wine'"):
        await Server(config(model="wine")).start()


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        ({"softmax": False}, "sum to 1"),
        ({"weights": [[float("nan")] * 3] * 3}, "sum to 1"),
    ],
)
async def test_model_that_fails_its_warm_up_is_fatal(publish, config, broken, sentence):
    """Answers that are no probabilities stop the start, and the port is free again."""
    publish("food", **broken)
    server = Server(config())
    with pytest.raises(ModelContractError, match=sentence):
        await server.start()
    await Server(config(port=0)).stop()


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        ({"batch": 4}, "batch is fixed at 4"),
        ({"input_type": 1}, r"tensor\(float\)"),
        ({"properties": {"labels": '["a", "b"]'}}, "2 labels for 3"),
        ({"properties": {"image_size": "9"}}, r"\[N, 9, 9, 3\]"),
        ({"properties": {"labels": None}}, "labels"),
        ({"properties": {"resize": "another rule"}}, "another rule"),
    ],
)
def test_file_outside_the_contract_is_refused(tiny_onnx, tmp_path, broken, sentence):
    """The sentence says what the file has and what the contract wants."""
    from service.models.model import Model

    path = tiny_onnx(tmp_path / "model.onnx", **broken)
    with pytest.raises(ModelContractError, match=sentence):
        Model(path, device="cpu").warm_up(2)


def test_file_that_is_no_model_is_refused(tmp_path, tiny_onnx):
    """Absent, junk and truncated files are clear errors that name the file."""
    from service.models.model import Model

    path = tmp_path / "model.onnx"
    with pytest.raises(ModelContractError, match=r"model\.onnx"):
        Model(path, device="cpu")
    whole = tiny_onnx(tmp_path / "whole.onnx").read_bytes()
    for data in (b"", b"junk", whole[: len(whole) // 2]):
        path.write_bytes(data)
        with pytest.raises(ModelContractError, match=r"model\.onnx"):
            Model(path, device="cpu")


async def test_taken_port_is_a_clear_error(publish, serve, config):
    """A second server on a port is refused; it would silently take half of the calls."""
    publish("food")
    server = await serve()
    with pytest.raises(UnavailableError, match="--port"):
        await Server(config(port=server.port)).start()


@pytest.mark.parametrize(
    "wrong",
    [{"device": "tpu"}, {"max_batch": 0}, {"queue_size": 1}, {"port": 70000}, {"drain_s": -1}],
)
def test_settings_are_checked_at_birth(wrong):
    """A value outside its range is refused, and the sentence names the field."""
    with pytest.raises(InvalidArgumentError, match=next(iter(wrong))):
        ServerConfig(**wrong)


async def test_empty_repository_is_waited_for_on_request(
    publish, config, connect, photo, eventually, caplog
):
    """With `wait_for_model` health says NOT_SERVING until the first release, which is served."""
    from service.server.server import Server

    server = Server(config(wait_for_model=True))
    starting = asyncio.create_task(server.start())
    try:
        await eventually(lambda: "waiting for the first release" in caplog.text)
        health = health_pb2_grpc.HealthStub(connect.channel(server.port))
        asked = await health.Check(health_pb2.HealthCheckRequest())
        assert health_pb2.HealthCheckResponse.NOT_SERVING == asked.status
        publish("food")
        await asyncio.wait_for(starting, 20)
        await connect(server.port).Classify(pb.ClassifyRequest(images=[photo("red")]))
    finally:
        starting.cancel()
        await server.stop()
