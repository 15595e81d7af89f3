"""Several replicas: behind Envoy, or balanced by the client; one is killed, and one is drained."""

import asyncio
import base64
import json
import os
import shutil
import signal
import subprocess
import urllib.error
import urllib.request
from collections import Counter
from contextlib import ExitStack

import grpc
import pytest

from benchmarks import rig
from benchmarks.trouble.envoy import CONFIG, Envoy
from service.client.client import AsyncClassifier
from service.pb import classifier_pb2 as pb
from tests.paths import ROOT

pytest.importorskip("yaml")


@pytest.fixture
def replicas(publish, tmp_path):
    """Give two replicas, in processes of their own."""
    publish("food")
    with ExitStack() as ended:
        flags = ("--runs", "1", "--decode-threads", "1", "--drain-delay", "3")
        started = [rig.Server(tmp_path / "models", *flags) for _ in range(2)]
        for server in started:
            ended.callback(server.__exit__)
        yield [server.ready() for server in started]


@pytest.fixture
def envoy(replicas):
    """Run Envoy before the replicas, as deploy/envoy/envoy.yaml says; give its address."""
    if shutil.which("envoy") is None:
        pytest.skip("envoy is not installed (make test-deploy)")
    with Envoy([server.port for server in replicas]) as running:
        yield f"127.0.0.1:{running.port}"


async def load(address: str, photo: bytes, trouble, *, retries: int, seconds: float = 4) -> Counter:
    """Call from four loops, and cause `trouble` meanwhile; return what became of the calls."""
    over = asyncio.Event()
    tally: Counter[str] = Counter()

    async def call() -> None:
        async with AsyncClassifier(address, retries=retries, timeout_s=20) as classifier:
            while not over.is_set():
                try:
                    (result,) = await classifier.classify([photo], top_k=1)
                    tally["OK" if result.classes else f"error: {result.error}"] += 1
                except Exception as error:
                    tally[f"{type(error).__name__}: {error}"] += 1

    calling = [asyncio.create_task(call()) for _ in range(4)]
    await asyncio.sleep(seconds / 3)
    await asyncio.to_thread(trouble)
    await asyncio.sleep(2 * seconds / 3)
    over.set()
    await asyncio.gather(*calling)
    return tally


def answered(server: rig.Server) -> float:
    """Return how many images a replica computed."""
    return server.metric("hansang_predictions_total")


async def test_one_of_two_is_killed_behind_envoy(replicas, envoy, photo):
    """SIGKILL under load: with the client's retries on no call fails, and the other takes all."""
    killed, other = replicas
    counts = []

    def kill() -> None:
        counts.append(answered(killed))
        os.kill(killed.process.pid, signal.SIGKILL)

    tally = await load(envoy, photo("red"), kill, retries=4)
    assert {"OK"} == set(tally), tally
    assert tally["OK"] > 50
    assert counts[0] > 20
    assert answered(other) > tally["OK"] / 2


async def test_one_of_two_is_drained_behind_envoy(replicas, envoy, photo):
    """SIGTERM under load, client retries off: Envoy hears of it in time, and no call fails."""
    drained, _ = replicas

    tally = await load(envoy, photo("red"), lambda: drained.stop(), retries=0, seconds=6)
    assert {"OK"} == set(tally), tally
    assert 0 == drained.process.returncode


async def test_one_of_two_is_killed_and_the_client_balances(replicas, photo):
    """Without a balancer: both answer, one is killed, and with retries on no call fails."""
    killed, other = replicas
    address = "ipv4:" + ",".join(f"127.0.0.1:{server.port}" for server in replicas)
    counts = []

    def kill() -> None:
        counts.extend((answered(killed), answered(other)))
        os.kill(killed.process.pid, signal.SIGKILL)

    tally = await load(address, photo("red"), kill, retries=4)
    assert {"OK"} == set(tally), tally
    assert min(counts) > 0.3 * max(counts), "one of them had nearly all"


async def test_one_of_two_is_drained_and_the_client_balances(replicas, photo):
    """SIGTERM, retries off: the client asks health, goes to the other, and no call fails."""
    drained, _ = replicas
    address = "ipv4:" + ",".join(f"127.0.0.1:{server.port}" for server in replicas)
    tally = await load(address, photo("red"), lambda: drained.stop(), retries=0, seconds=6)
    assert {"OK"} == set(tally), tally


async def test_more_calls_than_it_lets_through_are_refused_by_envoy(publish, tmp_path, photo):
    """With the code of a full replica and a pause that callers heed; no replica hears of it."""
    if shutil.which("envoy") is None:
        pytest.skip("envoy is not installed (make test-deploy)")
    publish("food", loops=20_000)
    request = pb.ClassifyRequest(images=[photo("red")])
    with (
        rig.Server(tmp_path / "models", "--runs", "1") as server,
        Envoy([server.port], most=2) as envoy,
    ):
        async with rig.stub(f"127.0.0.1:{envoy.port}") as stub:
            calls = [asyncio.ensure_future(stub.Classify(request, timeout=20)) for _ in range(40)]
            found = await asyncio.gather(*calls, return_exceptions=True)
        refused = [each for each in found if isinstance(each, grpc.aio.AioRpcError)]
        assert 0 < len(refused) < 40
        assert {grpc.StatusCode.RESOURCE_EXHAUSTED} == {each.code() for each in refused}
        told = dict(refused[0].trailing_metadata() or ()) | dict(
            refused[0].initial_metadata() or ()
        )
        assert "250" == told["grpc-retry-pushback-ms"]
        assert 0 == server.metric("hansang_rejected_images_total")


def post(address: str, kind: str, body: bytes, **headers: str) -> tuple[int, bytes]:
    """Send an HTTP POST to Classify; return the status and the body."""
    request = urllib.request.Request(
        f"http://{address}/hansang.v1.Classifier/Classify",
        body,
        {"content-type": kind, **headers},
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310  # our own Envoy
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_json_is_transcoded_by_envoy(replicas, envoy, photo):
    """A photo as base64 in JSON is answered in JSON, and a refusal is JSON, too."""
    images = [base64.b64encode(photo(colour)).decode() for colour in ("red", "blue")]
    status, answer = post(envoy, "application/json", json.dumps({"images": images}).encode())
    assert 200 == status, answer
    results = json.loads(answer)["results"]
    assert ["red", "blue"] == [result["classes"][0]["label"] for result in results]
    status, answer = post(envoy, "application/json", json.dumps({"images": []}).encode())
    assert 400 == status
    assert "images" in json.loads(answer)["message"]


def test_browsers_speak_grpc_web_to_envoy(replicas, envoy, photo):
    """One message in a frame, and the status in a frame of trailers behind it."""
    message = pb.ClassifyRequest(images=[photo("green")], top_k=1).SerializeToString()
    frame = b"\0" + len(message).to_bytes(4, "big") + message
    status, answer = post(envoy, "application/grpc-web+proto", frame, **{"x-grpc-web": "1"})
    assert 200 == status
    assert b"\0" == answer[:1]
    end = 5 + int.from_bytes(answer[1:5], "big")
    found = pb.ClassifyResponse.FromString(answer[5:end])
    assert "green" == found.results[0].classes[0].label
    assert b"\x80" == answer[end : end + 1]
    assert b"grpc-status:0" in answer[end + 5 :].replace(b" ", b"")


def test_envoy_accepts_the_file_as_it_stands():
    """Envoy's own validation of deploy/envoy/envoy.yaml."""
    if shutil.which("envoy") is None:
        pytest.skip("envoy is not installed (make test-deploy)")
    ran = subprocess.run(
        ["envoy", "--mode", "validate", "-c", CONFIG],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert 0 == ran.returncode, ran.stderr
