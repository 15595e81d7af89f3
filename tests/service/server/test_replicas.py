"""`hansang serve --workers`: several replicas on one port, over real sockets."""

import asyncio
import os
import signal
import urllib.request
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import onnxruntime
import pytest
from prometheus_client.parser import text_string_to_metric_families

from benchmarks import rig
from service.config import ServerConfig
from service.devices import num_gpus
from service.errors import InvalidArgumentError, NotFoundError
from service.models.repository import ModelRepository
from service.pb import classifier_pb2 as pb
from service.pb.classifier_pb2_grpc import ClassifierStub
from service.server.replicas import share
from service.server.server import Server
from service.sessions.opening import CUDA

WEIGHTS = {
    "red": [[0.05, 0, 0], [0, 0.05, 0], [0, 0, 0.05]],
    "blue": [[0, 0, 0.05], [0, 0.05, 0], [0.05, 0, 0]],
}


def replicas(server) -> set[int]:
    """Return the process IDs of a server's replicas that run."""
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    return set(map(int, children))


def running(pid: int) -> bool:
    """Return whether a process runs; one that has ended and was not yet waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


async def scrape(port: int) -> Counter:
    """Return (name, one of its labels) → sum, of what is at `/metrics`."""

    def read() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            return answer.read().decode()

    counted = Counter()
    for family in text_string_to_metric_families(await asyncio.to_thread(read)):
        for sample in family.samples:
            for label in sample.labels.values() or ("",):
                counted[sample.name.removeprefix("hansang_"), label] += sample.value
    return counted


@pytest.fixture
async def several():
    """Give `several(port)`: twelve stubs, each over its own connection: every replica has some."""
    async with AsyncExitStack() as stack:

        async def connect(port: int) -> list[ClassifierStub]:
            return [
                await stack.enter_async_context(rig.stub(f"127.0.0.1:{port}")) for _ in range(12)
            ]

        yield connect


async def answers_all(publish, process, photo, several, tmp_path, **settings) -> None:
    """Serve through swaps and a drain, and compare what was counted with what was answered."""
    publish("food", weights=WEIGHTS["red"])
    port = rig.free_port()
    server = process(workers=2, metrics_port=port, drain_delay_s=1.0, **settings)
    assert 2 == len(replicas(server))
    stubs = await several(server.port)
    answers: list[tuple[int, str]] = []
    done = asyncio.Event()

    async def again(stub) -> None:
        request = pb.ClassifyRequest(images=[photo("red"), b"junk", photo("red")], top_k=1)
        while not done.is_set():
            answer = await stub.Classify(request, timeout=20)
            assert answer.results[1].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
            answers.append((answer.model_version, answer.results[2].classes[0].label))

    async def all_answer(version: int) -> None:
        async with asyncio.timeout(20):
            while {version} != {v for v, _ in answers[-100:]}:
                await asyncio.sleep(0.02)

    repository = ModelRepository(tmp_path / "models")
    colour_of = {1: "red"}
    async with asyncio.TaskGroup() as group:
        for stub in stubs:
            group.create_task(again(stub))
        await all_answer(1)
        for colour in ("blue", "red", "blue"):
            version = publish("food", weights=WEIGHTS[colour])
            colour_of[version] = colour
            await all_answer(version)
        await all_answer(repository.rollback("food"))
        done.set()
    told = {version: {label for v, label in answers if v == version} for version, _ in answers}
    assert {version: {colour} for version, colour in colour_of.items()} == told

    counted = await scrape(port)
    assert len(answers) == counted["request_seconds_count", "OK"]
    assert 2 * len(answers) == counted["batch_images_sum", ""]
    assert len(answers) == counted["bad_images_total", "format"]
    assert 2 * 5 == counted["swaps_total", "food"], "each replica loads every version"
    assert (1, 0, 0) == tuple(
        counted[name, ""] for name in ("ready", "admitted_images", "bytes_in_flight")
    )

    done.clear()
    before = len(answers)
    tasks = [asyncio.create_task(again(stub)) for stub in stubs]
    await asyncio.sleep(0.3)
    children = replicas(server)
    # As systemd does, which signals every process of a service: each is to drain once.
    for pid in (server.pid, *children):
        os.kill(pid, signal.SIGTERM)
    await asyncio.sleep(0.7)  # calls are still taken
    done.set()
    await asyncio.gather(*tasks)
    assert before < len(answers)
    assert 0 == await asyncio.to_thread(server.wait, 20)
    assert not [pid for pid in children if running(pid)]


async def test_swaps_and_a_drain_fail_no_call(publish, process, photo, several, tmp_path):
    """Each answer is of the version it names, bad images spare the others, counts add up."""
    await answers_all(publish, process, photo, several, tmp_path)


@pytest.mark.gpu
@pytest.mark.skipif(
    CUDA not in onnxruntime.get_available_providers() or not num_gpus(),
    reason="no CUDA device, or an onnxruntime without CUDA",
)
async def test_the_same_on_cuda(publish, process, photo, several, tmp_path):
    """Each replica has the model on the device."""
    await answers_all(publish, process, photo, several, tmp_path, device="cuda")


async def test_a_replica_that_is_killed_comes_back(publish, process, photo, several, eventually):
    """Its calls fail as UNAVAILABLE, and no others; new connections are answered all the while.

    What it had counted stays, and `/metrics` tells that it was started again.
    """
    publish("food")
    port = rig.free_port()
    server = process(workers=2, metrics_port=port)
    stubs = await several(server.port)
    request = pb.ClassifyRequest(images=[photo("red")])
    junk = pb.ClassifyRequest(images=[b"junk"])
    await asyncio.gather(*(stub.Classify(junk) for stub in stubs))
    seen = await scrape(port)
    assert 12 == seen["bad_images_total", "format"]
    codes = Counter()
    done = asyncio.Event()

    async def again(stub) -> None:
        while not done.is_set():
            try:
                await stub.Classify(request, timeout=10)
                codes["OK"] += 1
            except grpc.aio.AioRpcError as error:
                codes[error.code().name] += 1
                await asyncio.sleep(0.05)

    tasks = [asyncio.create_task(again(stub)) for stub in stubs]
    victim, other = replicas(server)
    os.kill(victim, signal.SIGKILL)
    await eventually(lambda: not running(victim))
    async with asyncio.timeout(30):
        while (1, 1) != (seen["replica_restarts_total", ""], seen["ready", ""]):
            seen = await scrape(port)
            assert 12 == seen["bad_images_total", "format"]
            async with rig.stub(f"127.0.0.1:{server.port}") as fresh:
                await fresh.Classify(request, timeout=10)
    at_return = codes["OK"]
    await eventually(lambda: codes["OK"] > at_return + 50)
    done.set()
    await asyncio.gather(*tasks)

    assert {"OK", "UNAVAILABLE"} >= set(codes), codes
    assert other in replicas(server)
    assert 2 == len(replicas(server))
    assert "another one starts in 0.5 s" in server.logs.read_text()


async def test_none_outlives_the_parent(publish, process, eventually):
    """Replicas end when the process that was started is killed."""
    publish("food")
    server = process(workers=2)
    children = replicas(server)
    assert 2 == len(children)
    server.kill()
    server.wait()
    await eventually(lambda: not [pid for pid in children if running(pid)])


async def test_when_no_replica_is_left_the_server_ends(publish, process):
    """Its exit code is that of the last one, as a single server's would be."""
    publish("food")
    server = process(workers=2)
    for pid in replicas(server):
        os.kill(pid, signal.SIGKILL)
    assert 128 + signal.SIGKILL == await asyncio.to_thread(server.wait, 20)


async def test_a_server_that_cannot_start_says_why(publish, process, tmp_path):
    """A replica that fails at the start ends all with its code; so does a port that is taken."""
    publish("food")
    server = process(workers=2)
    second = process(workers=2, port=server.port, wait=False)
    assert 1 == await asyncio.to_thread(second.wait, 30)
    assert f"cannot listen on 127.0.0.1:{server.port}" in second.logs.read_text()

    (tmp_path / "models" / "food" / "1" / "model.onnx").write_bytes(b"junk")
    third = process(workers=2, wait=False)
    assert 1 == await asyncio.to_thread(third.wait, 30)
    assert "model.onnx" in third.logs.read_text()


async def test_a_shared_port_is_joined_when_the_models_are_loaded(publish, config, connect, photo):
    """Who connects meanwhile is answered by those that serve."""
    publish("food")
    server = Server(config(port=rig.free_port()), shares_port=True)
    await server.listen()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", server.config.port)
    await server.load()
    answer = await connect(server.port).Classify(pb.ClassifyRequest(images=[photo("red")]))
    await server.stop()
    assert "red" == answer.results[0].classes[0].label


async def test_one_that_cannot_load_leaves_a_shared_port_alone(config, tmp_path):
    """It ends in order, though it never listened."""
    (tmp_path / "models").mkdir()
    server = Server(config(port=rig.free_port()), shares_port=True)
    with pytest.raises(NotFoundError):
        await server.start()


def test_what_bounds_memory_is_divided():
    """Together the replicas hold what one server would; cores are shared as well."""
    config = ServerConfig(
        workers=3, queue_size=600, max_bytes_in_flight=3 * 2**20, max_streams=7, metrics_port=8002
    )
    part = share(config)
    assert (200, 2**20, 3) == (part.queue_size, part.max_bytes_in_flight, part.max_streams)
    assert ("127.0.0.1", 0) == (part.metrics_host, part.metrics_port)
    assert 64 == share(ServerConfig(workers=3, queue_size=64)).queue_size


def test_model_control_needs_one_process():
    """A call to unload a model would reach one replica alone."""
    with pytest.raises(InvalidArgumentError, match="model_control needs one process"):
        ServerConfig(workers=2, model_control=True)
