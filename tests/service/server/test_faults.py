"""Models that fail, runs that hang, and clients that die."""

import asyncio
import signal
import subprocess
import sys

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.soak import CRASHING
from service.pb import classifier_pb2 as pb
from service.server.watchdog import EXIT_FAULT
from tests.paths import ROOT

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

FAULT = """
import os, time, service.models.model, service.api.classifier
real = service.models.model.Model.predict
def predict(self, images):
    if os.path.exists({flag!r}):
        {fault}
    return real(self, images)
service.models.model.Model.predict = predict
"""


class Session:
    """A session of onnxruntime that a test can break."""

    def __init__(self, session) -> None:
        self.session, self.failures = session, 0

    def run(self, *arguments):
        if self.failures:
            self.failures -= 1
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return self.session.run(*arguments)


@pytest.fixture
async def broken(publish, serve, connect, photo):
    """Return a server, its breakable session, a call, and a watch of its health."""
    publish("food")
    server = await serve()
    model = server.models.find("food").model
    model._session = session = Session(model._session)
    stub = connect(server.port)
    watch = health_pb2_grpc.HealthStub(connect.channel(server.port)).Watch(
        health_pb2.HealthCheckRequest(service="hansang.v1.Classifier")
    )
    assert SERVING == (await watch.read()).status

    async def call() -> grpc.StatusCode:
        try:
            await stub.Classify(pb.ClassifyRequest(images=[photo("red")]))
        except grpc.aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    return server, session, call, watch


async def test_one_unlucky_run_changes_nothing(broken):
    """A run raises, the probe after it does not: its callers are told, and readiness stays."""
    server, session, call, _ = broken
    session.failures = 1
    assert grpc.StatusCode.INTERNAL == await call()
    await asyncio.sleep(0.2)
    assert grpc.StatusCode.OK == await call()
    assert server._health.serving
    value = server.metrics.registry.get_sample_value
    assert 1 == value("hansang_failed_runs_total", {"model": "food"})
    assert 0 == value("hansang_faulty_models")


async def test_readiness_follows_the_device(broken):
    """While runs fail health says NOT_SERVING; when they work again, SERVING."""
    server, session, call, watch = broken
    session.failures = 3
    assert grpc.StatusCode.INTERNAL == await call()
    assert NOT_SERVING == (await watch.read()).status
    assert 1 == server.metrics.registry.get_sample_value("hansang_faulty_models")
    async with asyncio.timeout(10):
        assert SERVING == (await watch.read()).status
    assert grpc.StatusCode.OK == await call()
    assert 0 == server.metrics.registry.get_sample_value("hansang_faulty_models")


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("raise RuntimeError('sticky CUDA error')", "its runs fail: .*sticky CUDA error"),
        ("time.sleep(1000)", "a run has taken .* hangs"),
    ],
    ids=["raises", "hangs"],
)
async def test_a_fault_that_stays_ends_the_process(
    publish, process, photo, tmp_path, fault, sentence
):
    """Raising or hanging for good: exit 70, in seconds, with the reason in the log."""
    import re

    flag = tmp_path / "broken"
    publish("food")
    server = process(
        before=FAULT.format(flag=str(flag), fault=fault), run_timeout_s=2.0, fault_exit_s=1.0
    )
    from service.pb.classifier_pb2_grpc import ClassifierStub

    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = ClassifierStub(channel)
        await stub.Classify(pb.ClassifyRequest(images=[photo("red")]))
        flag.touch()
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.Classify(pb.ClassifyRequest(images=[photo("red")]), timeout=30)
        assert EXIT_FAULT == await asyncio.to_thread(server.wait, 20)
    assert re.search(sentence, server.logs.read_text())


async def test_an_event_loop_that_stands_still_ends_the_process(publish, process, photo, tmp_path):
    """Nothing in Python runs any more: the process ends non-zero, with every stack in the log."""
    flag = tmp_path / "broken"
    publish("food")
    before = f"""
import os, time, service.api.classifier
real = service.api.classifier.ClassifierServicer._answer
async def answer(self, request, terms):
    if os.path.exists({str(flag)!r}):
        time.sleep(1000)
    return await real(self, request, terms)
service.api.classifier.ClassifierServicer._answer = answer
"""
    server = process(before=before, run_timeout_s=2.0)
    from service.pb.classifier_pb2_grpc import ClassifierStub

    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = ClassifierStub(channel)
        await stub.Classify(pb.ClassifyRequest(images=[photo("red")]))
        flag.touch()
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.Classify(pb.ClassifyRequest(images=[photo("red")]), timeout=30)
        assert 1 == await asyncio.to_thread(server.wait, 20)
    assert "in answer" in server.logs.read_text()


async def test_a_loop_that_never_lets_go_ends_the_process(publish, process, photo):
    """C code that computes with the GIL held: the process ends, with the stack in the log."""
    publish("food")
    before = """
import re, service.api.classifier
async def answer(self, request, terms):
    re.match("(a+)+$", "a" * 64 + "b")
service.api.classifier.ClassifierServicer._answer = answer
"""
    server = process(before=f"import os; os.cpu_count = lambda: 1\n{before}", run_timeout_s=1.0)
    from service.pb.classifier_pb2_grpc import ClassifierStub

    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await ClassifierStub(channel).Classify(
                pb.ClassifyRequest(images=[photo("red")]), timeout=60
            )
        assert 0 != await asyncio.to_thread(server.wait, 60)
    assert "in answer" in server.logs.read_text()


async def test_a_standstill_is_no_hang(publish, process, photo):
    """SIGSTOP for longer than `run_timeout_s`, with calls in flight: all are answered after it."""
    publish("food", loops=20_000)
    server = process(run_timeout_s=2.0, max_batch=4)
    from service.pb.classifier_pb2_grpc import ClassifierStub

    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = ClassifierStub(channel)
        request = pb.ClassifyRequest(images=[photo("red")] * 16)
        await stub.Classify(request)
        calls = [asyncio.ensure_future(stub.Classify(request)) for _ in range(4)]
        await asyncio.sleep(0.1)
        server.send_signal(signal.SIGSTOP)
        await asyncio.sleep(4)
        server.send_signal(signal.SIGCONT)
        answers = await asyncio.gather(*calls)
        assert [16] * 4 == [len(answer.results) for answer in answers]
        await asyncio.sleep(1)
        await stub.Classify(request)
    assert server.poll() is None


async def test_clients_that_are_killed_leave_nothing(publish, serve, photo, tmp_path, eventually):
    """SIGKILL in mid-stream, three times: streams, places and bytes are free again."""
    publish("food", loops=1000)
    server = await serve(max_batch=4)
    (tmp_path / "photo.jpg").write_bytes(photo("red"))
    clients = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", CRASHING, f"127.0.0.1:{server.port}"),
            *(str(tmp_path / "photo.jpg"), "40"),
            cwd=ROOT,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(3)
    ]
    assert [-9] * 3 == [await client.wait() for client in clients]
    value = server.metrics.registry.get_sample_value
    await eventually(
        lambda: (
            0
            == value("hansang_admitted_images")
            == value("hansang_bytes_in_flight")
            == value("hansang_open_streams", {"method": "/hansang.v1.Classifier/ClassifyStream"})
        )
    )


async def test_an_unexpected_error_ends_the_process(publish, process):
    """Threads that are left would keep it, with a port that nobody answers."""
    publish("food")
    server = process(
        before="import service.server.process\nservice.server.process._served = None",
        metrics_port=0,
        wait=False,
    )
    assert 70 == await asyncio.to_thread(server.wait, 20)
    assert "'NoneType' object is not callable" in server.logs.read_text()
