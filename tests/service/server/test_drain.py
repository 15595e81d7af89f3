"""SIGTERM, in a process of its own: readiness falls first, and not one call fails."""

import asyncio
import signal
import time
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks import rig
from benchmarks.trouble.drain import drain
from service.models.repository import ModelRepository
from service.pb import classifier_pb2 as pb
from service.pb.classifier_pb2_grpc import ClassifierStub

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.mark.parametrize("http", [False, True], ids=["gRPC", "HTTP"])
async def test_rolling_restart_fails_no_call(publish, tmp_path, http):
    """Two servers are restarted in turn under load; the clients ask health and never retry."""
    publish("food")
    photos = rig.photos(4, size=(60, 40))
    found = await drain(
        ModelRepository(tmp_path / "models"), rounds=2, callers=4, photos=photos, http=http
    )
    assert 0 == found["failed"], found
    assert [0] == found["exit_codes"]
    assert 500 < found["calls"]


async def test_readiness_falls_before_calls_are_refused(publish, process, photo):
    """During the delay health says NOT_SERVING and calls are answered all the same; then exit 0."""
    publish("food")
    server = process(drain_delay_s=1.5)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        health, stub = health_pb2_grpc.HealthStub(channel), ClassifierStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest())
        assert SERVING == (await watch.read()).status
        server.send_signal(signal.SIGTERM)
        start_s = time.monotonic()
        assert NOT_SERVING == (await watch.read()).status
        answered = 0
        while time.monotonic() - start_s < 1.2:
            await stub.Classify(pb.ClassifyRequest(images=[photo("red")]), timeout=5)
            answered += 1
        assert 10 < answered
        assert 0 == await asyncio.to_thread(server.wait, 20)
        assert 1.5 <= time.monotonic() - start_s < 8
    assert '"message": "drained"' in server.logs.read_text()


async def test_second_sigterm_hurries(publish, process, photo):
    """Neither the delay nor the call in flight is waited for; the exit code is 0 all the same."""
    publish("slow", loops=20_000_000)
    server = process(
        drain_delay_s=60,
        drain_s=60,
        max_batch=1,
        wait=False,
        before="import service.models.model as m\nm.Model.warm_up = lambda self, n: 0.0",
    )
    server.ready()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        call = ClassifierStub(channel).Classify(pb.ClassifyRequest(images=[photo("red")]))
        await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        await asyncio.sleep(0.3)
        server.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.3)
        assert server.poll() is None
        server.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        assert 0 == await asyncio.to_thread(server.wait, 30)


async def test_sigterm_while_a_model_is_being_loaded(publish, process, tmp_path):
    """A load of a minute is not waited for."""
    publish("food")
    loading = str(tmp_path / "loading")
    server = process(
        wait=False,
        before=f"""
import service.models.model, time
def warm_up(*_):
    open({loading!r}, "w").close()
    time.sleep(60)
service.models.model.Model.warm_up = warm_up
""",
    )
    while not Path(loading).exists():
        await asyncio.sleep(0.05)
    start_s = time.monotonic()
    server.send_signal(signal.SIGTERM)
    assert 0 == await asyncio.to_thread(server.wait, 20)
    assert time.monotonic() - start_s < 10


async def test_sigterm_is_heard_before_anything_is_imported(publish, tmp_path):
    """As soon as the process listens for it, be it seconds before it serves; the exit code is 0."""
    publish("food")
    server = rig.Server(tmp_path / "models")
    try:
        status = Path(f"/proc/{server.process.pid}/status")
        bit = 1 << (signal.SIGTERM - 1)
        while not int(status.read_text().split("SigCgt:")[1].split()[0], 16) & bit:
            assert server.process.poll() is None
            await asyncio.sleep(0.005)
        loaded = Path(f"/proc/{server.process.pid}/maps").read_text()
        assert "onnxruntime" not in loaded
        server.process.send_signal(signal.SIGTERM)
        assert 0 == await asyncio.to_thread(server.process.wait, 20)
        assert "serving" not in server.logs.read_text()
    finally:
        server.__exit__()
