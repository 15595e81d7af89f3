"""Front ends in processes of their own before one that holds the models: over real sockets."""

import asyncio
import os
import signal
import time
import urllib.request
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import onnxruntime
import pytest
from prometheus_client.parser import text_string_to_metric_families

from benchmarks import rig
from service.api.auth import entry, new_token
from service.models.model import CUDA, _num_cuda_devices
from service.models.repository import ModelRepository
from service.pb import classifier_pb2 as pb
from service.pb import inference_pb2 as inference
from service.pb.classifier_pb2_grpc import ClassifierStub
from service.pb.inference_pb2_grpc import GRPCInferenceServiceStub

WEIGHTS = {
    "red": [[0.05, 0, 0], [0, 0.05, 0], [0, 0, 0.05]],
    "blue": [[0, 0, 0.05], [0, 0.05, 0], [0.05, 0, 0]],
}


def front_ends(server) -> set[int]:
    """Return the process IDs of a server's front ends."""
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    return set(map(int, children))


def scrape(port: int) -> dict[tuple[str, str], float]:
    """Return (name, one of its labels) → sum, of what is at `/metrics`; empty where it has none."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    counted = Counter()
    for family in families:
        for sample in family.samples:
            for label in sample.labels.values() or ("",):
                counted[sample.name.removeprefix("hansang_"), label] += sample.value
    return counted


@pytest.fixture
async def several():
    """Give `several(port)`: stubs, each over its own connection: every front end has some."""
    async with AsyncExitStack() as stack:

        async def connect(port: int, kind=ClassifierStub) -> list:
            options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
            return [
                kind(
                    await stack.enter_async_context(
                        grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options)
                    )
                )
                for _ in range(12)
            ]

        yield connect


async def answers_all(publish, process, photo, several, tmp_path, **settings) -> None:
    """Serve through swaps and a drain, and compare what was counted with what was answered."""
    publish("food", weights=WEIGHTS["red"])
    port = rig.free_port()
    server = process(workers=2, metrics_port=port, drain_delay_s=1.0, **settings)
    assert 2 == len(front_ends(server))
    stubs = await several(server.port)
    answers: list[tuple[int, str]] = []
    done = asyncio.Event()

    async def again(stub) -> None:
        request = pb.ClassifyRequest(images=[photo("red"), b"junk", photo("red")], top_k=1)
        while not done.is_set():
            answer = await stub.Classify(request, timeout=20)
            assert answer.results[1].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
            answers.append((answer.model_version, answer.results[2].classes[0].label))

    async def has_answered(version: int) -> None:
        async with asyncio.timeout(20):
            while all(version != other for other, _ in answers):
                await asyncio.sleep(0.05)

    store = ModelRepository(tmp_path / "models")
    colour_of = {1: "red"}
    async with asyncio.TaskGroup() as group:
        for stub in stubs:
            group.create_task(again(stub))
        await has_answered(1)
        for number in range(2, 7):
            if number == 4:
                store.rollback("food")
                await asyncio.sleep(0.3)
                continue
            colour = ("red", "blue")[number % 2]
            version = publish("food", weights=WEIGHTS[colour])
            colour_of[version] = colour
            await has_answered(version)
        await asyncio.sleep(0.5)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stubs[0].Classify(pb.ClassifyRequest(images=[b"x"], model="soup"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        done.set()
    told = {version: {label for v, label in answers if v == version} for version, _ in answers}
    assert {version: {colour} for version, colour in colour_of.items()} == told

    await asyncio.sleep(1.3)  # a front end tells once a second
    counted = await asyncio.to_thread(scrape, port)
    assert len(answers) == counted["request_seconds_count", "OK"]
    assert 2 * len(answers) == counted["batch_images_sum", ""]
    assert len(answers) == counted["bad_images_total", "format"]
    assert (1, 0, 0) == tuple(
        counted[name, ""] for name in ("ready", "admitted_images", "bytes_in_flight")
    )
    (protocol, *_) = await several(server.port, GRPCInferenceServiceStub)
    (statistics,) = (
        await protocol.ModelStatistics(inference.ModelStatisticsRequest(name="food"))
    ).model_stats
    newest = max(version for version, _ in answers)
    assert sum(3 for version, _ in answers if version == newest) == statistics.inference_count

    done.clear()
    before = len(answers)
    tasks = [asyncio.create_task(again(stub)) for stub in stubs]
    await asyncio.sleep(0.3)
    children = front_ends(server)
    server.send_signal(signal.SIGTERM)
    await asyncio.sleep(0.7)  # calls are still taken
    done.set()
    await asyncio.gather(*tasks)
    assert before < len(answers)
    assert 0 == await asyncio.to_thread(server.wait, 20)
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]


async def test_swaps_and_a_drain_fail_no_call(publish, process, photo, several, tmp_path):
    """Each answer is of the version it names, bad images spare the others, counts add up."""
    await answers_all(publish, process, photo, several, tmp_path)


@pytest.mark.gpu
@pytest.mark.skipif(
    CUDA not in onnxruntime.get_available_providers() or not _num_cuda_devices(),
    reason="no CUDA device, or an onnxruntime without CUDA",
)
async def test_the_same_on_cuda(publish, process, photo, several, tmp_path):
    """The models' process has the device; the front ends need none."""
    await answers_all(publish, process, photo, several, tmp_path, device="cuda")


async def test_a_front_end_that_dies_is_replaced(publish, process, photo, several, eventually):
    """Its calls fail as UNAVAILABLE; others do not, what was counted stays, and nothing is held.

    None outlives the process that holds the models, however that ends.
    """
    publish("food")
    port = rig.free_port()
    server = process(workers=2, metrics_port=port)
    stubs = await several(server.port)
    request = pb.ClassifyRequest(images=[photo("red")])
    calls = [stub.Classify(request) for stub in stubs]
    # Given up on, with places in shared memory.
    for stub in stubs:
        stub.Classify(pb.ClassifyRequest(images=[photo("red")] * 64)).cancel()
    assert len(stubs) == len(await asyncio.gather(*calls))
    await asyncio.sleep(1.3)
    before = await asyncio.to_thread(scrape, port)

    victim, other = front_ends(server)
    os.kill(victim, signal.SIGKILL)
    codes = Counter()
    end_s = time.monotonic() + 20
    while time.monotonic() < end_s and (len(front_ends(server)) < 2 or codes["OK"] < 40):
        try:
            await stubs[codes.total() % len(stubs)].Classify(request, timeout=5)
            codes["OK"] += 1
        except grpc.aio.AioRpcError as error:
            codes[error.code().name] += 1
    assert {"OK", "UNAVAILABLE"} >= set(codes), codes
    assert other in front_ends(server)
    assert 2 == len(front_ends(server))
    await asyncio.sleep(1.3)
    after = await asyncio.to_thread(scrape, port)
    assert all(after[key] >= value for key, value in before.items() if "total" in key[0])
    assert 12 + 40 <= after["request_seconds_count", "OK"]
    assert "another one starts" in server.logs.read_text()
    children = front_ends(server)
    server.kill()
    server.wait()
    await eventually(lambda: not [pid for pid in children if Path(f"/proc/{pid}").exists()])


async def test_quotas_and_the_port_are_the_whole_servers(
    publish, process, photo, several, tmp_path
):
    """A caller gets no more by opening connections; another server cannot share the port."""
    publish("food")
    secret, digest = new_token()
    (tmp_path / "tokens.toml").write_text(entry("kiosk", digest, images_per_s=10))
    server = process(workers=2, tokens=str(tmp_path / "tokens.toml"))
    stubs = await several(server.port)
    metadata = (("authorization", f"Bearer {secret}"),)
    codes = Counter()
    start_s = time.monotonic()
    for at in range(60):
        try:
            await stubs[at % 12].Classify(
                pb.ClassifyRequest(images=[photo("red")]), metadata=metadata
            )
            codes["OK"] += 1
        except grpc.aio.AioRpcError as error:
            codes[error.code().name] += 1
    # A second's worth at once, one that overdraws it, and what came to be meanwhile.
    assert 10 <= codes["OK"] <= 12 + 10 * (time.monotonic() - start_s)
    assert {"OK", "RESOURCE_EXHAUSTED"} == set(codes)

    second = process(workers=1, port=server.port, wait=False)
    assert 1 == await asyncio.to_thread(second.wait, 30)
    assert f"cannot listen on 127.0.0.1:{server.port}" in second.logs.read_text()
