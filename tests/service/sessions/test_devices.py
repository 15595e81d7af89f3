"""Devices by name, and what is said where one cannot be had."""

import importlib.util
import sys
from types import SimpleNamespace

import numpy as np
import onnxruntime as ort
import pytest

from service.config import ServerConfig
from service.devices import gpus_of, part_of, problem_of
from service.errors import InvalidArgumentError, ModelContractError
from service.models.model import Model
from service.sessions import opening as sessions
from service.sessions.cuda import CudaOptions, CudaSessions
from service.sessions.opening import TENSORRT


@pytest.mark.parametrize(
    ("device", "gpus"),
    [("cpu", ()), ("auto", (0,)), ("cuda", (0,)), ("cuda:1", (1,)), ("cuda:2,cuda:0", (2, 0)),
     ("tensorrt", (0,))],
)  # fmt: skip
def test_a_name_means_gpus(device, gpus):
    """By number, in the order in which they are named."""
    assert "" == problem_of(device)
    assert gpus == gpus_of(device)
    assert device == ServerConfig(device=device).device


@pytest.mark.parametrize("device", ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:0,cpu", "cuda,"])
def test_another_name_is_refused(device):
    """The message lists what there is."""
    with pytest.raises(InvalidArgumentError, match="cuda:0,cuda:1"):
        ServerConfig(device=device)


def test_a_gpu_is_named_once():
    """Twice the same one would take its memory twice, for nothing."""
    with pytest.raises(InvalidArgumentError, match="twice"):
        ServerConfig(device="cuda,cuda:0")


def test_replicas_have_a_gpu_each():
    """In turn, so that each GPU gets as many; one device is everyone's."""
    assert ["cuda:0", "cuda:1", "cuda:0"] == [part_of("cuda:0,cuda:1", n) for n in range(3)]
    assert "auto" == part_of("auto", 3)


def test_a_gpu_that_is_not_there_is_named(monkeypatch, tiny_onnx, tmp_path):
    """The message says how many there are."""
    monkeypatch.setattr(sessions, "num_gpus", lambda: 2)
    monkeypatch.setattr(ort, "get_available_providers", lambda: [sessions.CUDA, sessions.CPU])

    with pytest.raises(ModelContractError, match=r"cuda:2: this machine has 2 GPUs"):
        Model(tiny_onnx(tmp_path / "tiny.onnx"), device="cuda:0,cuda:2")


def test_a_missing_or_old_driver_is_a_sentence_that_says_which_is_needed(
    monkeypatch, tiny_onnx, tmp_path
):
    """What the CUDA image says on a host without a GPU, and on one whose driver knows CUDA 12."""
    path = tiny_onnx(tmp_path / "tiny.onnx")
    monkeypatch.setattr(ort, "get_available_providers", lambda: [sessions.CUDA, sessions.CPU])
    monkeypatch.setattr(sessions, "num_gpus", lambda: 0)
    with pytest.raises(ModelContractError, match=r"no NVIDIA driver .*driver 580 .*--gpus all"):
        Model(path, device="cuda")

    monkeypatch.setattr(sessions, "num_gpus", lambda: 1)
    monkeypatch.setattr(sessions, "driver_cuda", lambda: 12)
    monkeypatch.setattr(ort, "cuda_version", "13.0", raising=False)
    with pytest.raises(ModelContractError, match=r"knows CUDA 12, .* for CUDA 13; .*driver 580"):
        Model(path, device="auto")


def test_batches_go_to_the_gpus_in_turn(tiny_onnx, tmp_path):
    """Sessions on several devices answer alike; a free one is taken in the order of the GPUs."""
    path = tiny_onnx(tmp_path / "tiny.onnx")
    opened = [(ort.InferenceSession(path, providers=[sessions.CPU]), 0) for _ in range(4)]
    several = CudaSessions(opened, (8, 8, 3), 3, 4, device="cpu", graphs=False)
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)

    rows = [several.run(images) for _ in range(5)]

    assert all(np.array_equal(rows[0], each) for each in rows)
    assert "1" == CudaOptions().provider(1)["device_id"]


def test_without_its_plugin_tensorrt_says_what_to_install(monkeypatch, tiny_onnx, tmp_path):
    """The name of the package, and what works without it."""
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_nv_tensorrt_rtx", None)

    with pytest.raises(ModelContractError, match=r"pip install.*tensorrt-rtx-cu13.*--device cuda"):
        Model(tiny_onnx(tmp_path / "tiny.onnx"), device="tensorrt")


def test_a_plugin_that_cannot_be_loaded_is_named(monkeypatch, tiny_onnx, tmp_path):
    """What the loader said is kept."""
    plugin = SimpleNamespace(get_library_path=lambda: str(tmp_path / "missing.so"))
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_nv_tensorrt_rtx", plugin)

    with pytest.raises(ModelContractError, match=r"plugin cannot be loaded.*missing\.so"):
        Model(tiny_onnx(tmp_path / "tiny.onnx"), device="tensorrt")


@pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime_ep_nv_tensorrt_rtx") is None,
    reason="the plugin for TensorRT is not installed",
)
def test_the_real_plugin_finds_no_gpu_on_a_machine_without_one(tiny_onnx, tmp_path):
    """It is registered, and says that there is none; with one, it serves."""
    try:
        model = Model(tiny_onnx(tmp_path / "tiny.onnx"), device="tensorrt")
    except ModelContractError as error:
        assert "no NVIDIA GPU" in str(error)  # noqa: PT017
    else:
        model.warm_up(4)
        assert TENSORRT == model.provider


def test_other_answers_than_a_cpu_gives_are_refused(monkeypatch, tiny_onnx, tmp_path):
    """A provider whose kernels no export was checked with is compared before it serves."""
    model = Model(tiny_onnx(tmp_path / "tiny.onnx"), device="cpu")
    model._require_like_cpu()
    right = model.predict
    monkeypatch.setattr(model, "predict", lambda images: np.roll(right(images), 1, axis=1))

    with pytest.raises(ModelContractError, match="from those of a CPU"):
        model._require_like_cpu()
