"""Repositories that are not whole: what is sound serves, and what is not is said once."""

import asyncio
import shutil
from pathlib import Path

import grpc
import pytest

from service.errors import ModelContractError
from service.models.repository import ModelRepository
from service.pb import classifier_pb2 as pb
from service.pb import inference_pb2, inference_pb2_grpc


def sample(server, name: str, **labels: str) -> float | None:
    """Return a figure of the server's metrics."""
    return server.metrics.registry.get_sample_value(f"hansang_{name}", labels)


def _truncate(folder: Path) -> None:
    path = folder / str(max(int(each.name) for each in folder.glob("[0-9]*"))) / "model.onnx"
    path.write_bytes(path.read_bytes()[:100])


def _without(name: str):
    def remove(folder: Path) -> None:
        (folder / "1" / name).unlink()

    return remove


def _config(content: bytes):
    def write(folder: Path) -> None:
        (folder / "config.pbtxt").write_bytes(content)

    return write


BREAKS = {
    "truncated": _truncate,
    "no model.onnx": _without("model.onnx"),
    "no labels.txt": _without("labels.txt"),
}
CONFIGS = {
    "empty config": _config(b""),
    "config of another kind": _config(b"\xff\xfe\x00"),
    "config that names no version": _config(b'name: "bad"\nbackend: "onnxruntime"\n'),
}


@pytest.mark.parametrize("breaks", [*BREAKS, *CONFIGS])
async def test_one_broken_model_does_not_hold_up_the_others(
    publish, serve, connect, photo, tmp_path, caplog, breaks
):
    """The server starts with the sound one; the log, a metric and the index name the broken one."""
    publish("food")
    publish("bad")
    {**BREAKS, **CONFIGS}[breaks](tmp_path / "models" / "bad")
    server = await serve()
    assert server._health.serving
    answer = await connect(server.port).Classify(
        pb.ClassifyRequest(images=[photo("red")], model="food")
    )
    assert 1 == answer.model_version
    assert 1 == sample(server, "out_of_step", model="bad")
    assert 0 == sample(server, "out_of_step", model="food")
    serves = "version 1 serves on" if breaks in CONFIGS else "nothing serves"
    assert f"model bad: the version that should serve is refused, {serves}" in caplog.text
    stub = inference_pb2_grpc.GRPCInferenceServiceStub(connect.channel(server.port))
    ready = {
        name: (await stub.ModelReady(inference_pb2.ModelReadyRequest(name=name))).ready
        for name in ("food", "bad")
    }
    assert {"food": True, "bad": breaks in CONFIGS} == ready
    index = await stub.RepositoryIndex(inference_pb2.RepositoryIndexRequest())
    assert ["bad"] == [each.name for each in index.models if each.reason]


@pytest.mark.parametrize("breaks", ["truncated", "no model.onnx", "empty config"])
async def test_start_after_a_bad_release(publish, serve, tmp_path, eventually, caplog, breaks):
    """The version before serves from the start, and the next good release is taken."""
    publish("food")
    publish("food")
    if breaks == "no model.onnx":
        (tmp_path / "models" / "food" / "2" / "model.onnx").unlink()
    else:
        {**BREAKS, **CONFIGS}[breaks](tmp_path / "models" / "food")
    server = await serve()
    expected = 2 if breaks == "empty config" else 1
    assert expected == server.models.find("food").version
    assert server._health.serving
    assert 1 == sample(server, "out_of_step", model="food")
    assert f"version {expected} serves on" in caplog.text

    released = publish("food")
    await eventually(lambda: server.models.find("food").version == released)
    assert 0 == sample(server, "out_of_step", model="food")


async def test_what_served_before_goes_first(publish, serve, tmp_path):
    """A version that was gone back from does not return because the one that serves broke."""
    for _ in range(3):
        publish("food")
    store = ModelRepository(tmp_path / "models")
    assert 2 == store.rollback("food")
    store.path("food", 2).unlink()
    assert 1 == (await serve()).models.find("food").version


async def test_start_fails_where_nothing_serves(publish, config, tmp_path):
    """Two broken models and no sound one: the process would be of no use."""
    from service.server.server import Server

    publish("bad")
    publish("worse")
    for name in ("bad", "worse"):
        _truncate(tmp_path / "models" / name)
    with pytest.raises(ModelContractError, match="is damaged"):
        await Server(config()).start()


async def test_a_file_that_arrives_late_is_taken(publish, serve, tmp_path, eventually, caplog):
    """config.pbtxt first and the version after it, file by file: refused, and then served."""
    publish("food")
    server = await serve()
    staged, models = tmp_path / "staged", tmp_path / "models"
    shutil.copytree(models, staged)
    publish("food", repository=staged)
    (staged / "food" / "config.pbtxt").replace(models / "food" / "config.pbtxt")
    await eventually(lambda: "food" in server.models.refusals)
    arriving = models / "food" / "2"
    arriving.mkdir()
    for name in ("SHA256SUMS", "labels.txt", "model.onnx"):
        assert 1 == server.models.find("food").version
        shutil.copyfile(staged / "food" / "2" / name, arriving / name)
        await asyncio.sleep(0.05)
    (arriving / "release.json").unlink(missing_ok=True)
    await eventually(lambda: server.models.find("food").version == 2)
    assert {} == server.models.refusals
    assert 0 == sample(server, "out_of_step", model="food")


async def test_a_refused_version_is_told_once(publish, serve, tmp_path, eventually, caplog):
    """However often its files are touched: the same fault is one line, and counted once."""
    publish("food")
    publish("food")
    _truncate(tmp_path / "models" / "food")
    server = await serve()
    label = tmp_path / "models" / "food" / "2" / "labels.txt"
    for number in range(5):
        seen = server.models._seen["food"]
        label.with_name("touched.txt").write_text("x" * number)
        await eventually(lambda seen=seen: server.models._seen["food"] != seen)
    assert 1 == caplog.text.count("is refused")
    assert 1 == sample(server, "swap_failures_total", model="food")


@pytest.mark.parametrize("gone", ["food", "."], ids=["model", "repository"])
async def test_what_vanishes_serves_on_and_is_told_once(
    publish, serve, connect, photo, tmp_path, eventually, caplog, gone
):
    """Removed by mistake, or a mount that went away: one line, a metric; and back again."""
    publish("food")
    publish("drink")
    server = await serve()
    path = (tmp_path / "models" / gone).resolve()
    path.rename(tmp_path / "away")
    await eventually(lambda: sample(server, "out_of_step", model="food") == 1)
    for _ in range(5):
        await server.models._changing.acquire()
        server.models._changing.release()
        await asyncio.sleep(0.02)
    await connect(server.port).Classify(pb.ClassifyRequest(images=[photo("red")], model="food"))
    assert 1 == caplog.text.count("model food: ")
    (tmp_path / "away").rename(path)
    await eventually(lambda: sample(server, "out_of_step", model="food") == 0)
    assert 1 == server.models.find("food").version


async def test_one_faulty_model_leaves_the_others_ready(publish, serve, connect, photo, eventually):
    """Runs of one model fail for longer than `fault_exit_s`: the server serves the other on."""
    publish("food")
    publish("bad")
    server = await serve(fault_exit_s=0.1)

    class Broken:
        def run(self, *_):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    instance = server.models.find("bad")
    instance.model._session = Broken()
    stub = connect(server.port)
    with pytest.raises(grpc.aio.AioRpcError):
        await stub.Classify(pb.ClassifyRequest(images=[photo("red")], model="bad"))
    await eventually(lambda: instance.fault)
    inference = inference_pb2_grpc.GRPCInferenceServiceStub(connect.channel(server.port))
    assert not (await inference.ModelReady(inference_pb2.ModelReadyRequest(name="bad"))).ready
    probes = []
    real = instance.model.probe
    instance.model.probe = lambda: probes.append(1) or real()
    await eventually(lambda: len(probes) > 5)
    assert not server.watchdog.fatal.done()
    assert server._health.serving
    await stub.Classify(pb.ClassifyRequest(images=[photo("red")], model="food"))

    # A release heals it: the faulty version is no longer asked after.
    publish("bad")
    await eventually(lambda: server.models.find("bad").version == 2)
    await eventually(lambda: sample(server, "faulty_models") == 0)
    assert not server.watchdog.fatal.done()


def _answers(onnx: Path) -> str:
    """Return what a server stores of a model that was released on another machine."""
    from service.models.model import Model
    from service.sessions import answers

    return answers.text(Model(onnx, device="cpu").predict, 8)


@pytest.mark.parametrize("precision", ["fp32", "int8", "bf16"])
async def test_a_version_that_answers_otherwise_here_does_not_serve(
    publish, serve, connect, photo, tmp_path, tiny_onnx, eventually, caplog, precision
):
    """The version before serves on, a metric and the log say so; a version that agrees is taken."""
    store = ModelRepository(tmp_path / "models")
    properties = {"precision": precision}
    publish("food")
    server = await serve()
    # Its weights are those of another network: as if overflows had changed each answer.
    other = tiny_onnx(tmp_path / "other.onnx", weights=[[0.0, 0.05, 0.0]] * 3)
    onnx = tiny_onnx(tmp_path / "new.onnx", properties=properties)
    store.publish("food", onnx, files={"answers.json": _answers(other)})
    await eventually(lambda: sample(server, "other_answers_total", model="food") == 1)
    assert 1 == server.models.find("food").version
    assert 1 == sample(server, "out_of_step", model="food")
    assert "version 1 serves on" in caplog.text
    assert "this machine answers otherwise than the one that released it" in caplog.text
    told = await connect(server.port).Classify(pb.ClassifyRequest(images=[photo("red")]))
    assert 1 == told.model_version

    store.publish("food", onnx, files={"answers.json": _answers(onnx)})
    await eventually(lambda: server.models.find("food").version == 3)
    assert 0 == sample(server, "out_of_step", model="food")
