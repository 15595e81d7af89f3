"""Fewer bits for the same answers, and a gate that refuses what is not the same model any more."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from service.sessions import openvino
from training.data.cache import DatasetCache
from training.errors import ExportError
from training.export import quantisation
from training.export.onnx_export import export_onnx, write_onnx
from training.export.precision import MAX_TOP1_LOSS, MIN_AGREEMENT, reduce
from training.export.quantisation import to_int8
from training.model.resnet import Served, build
from training.runs import checkpoint, run_directory


@pytest.fixture(scope="module")
def learnt(run_dir):
    """Return a trained network, its cache, and the split it is judged on.

    After six epochs it guesses at many of the photos, and whoever guesses changes their mind in
    int8: those that it is surest of are left, of several answers, or one answer would fit all.
    """
    about = run_directory.read(run_dir)
    cache = DatasetCache.open(Path(about["cache"]))
    model = build(len(cache.labels), seed=0)
    tensors, _ = checkpoint.load(run_dir / "checkpoints" / checkpoint.BEST)
    model.load_state_dict(checkpoint.model_tensors(tensors))
    split = cache.splits["train"]
    images = torch.from_numpy(np.ascontiguousarray(split.images[:, 2:34, 2:34]))
    with torch.no_grad():
        rows = Served(model.eval()).eval()(images).numpy()
    answers, ranked = rows.argmax(1), np.sort(rows, axis=1)
    order = np.argsort(ranked[:, -2] - ranked[:, -1])
    surest = np.sort(np.concatenate([
        [at for at in order if answers[at] == answer][:7] for answer in np.unique(answers)
    ]))  # fmt: skip
    assert len(np.unique(answers)) > 1
    chosen = replace(
        split,
        images=split.images[surest],
        targets=split.targets[surest],
        files=tuple(split.files[at] for at in surest),
    )
    return model, cache, chosen


def write(model, path):
    """Write a network as an fp32 file."""
    properties = {"schema_version": "1", "labels": '["a"]', "test_top1": "0.5"}
    write_onnx(Served(model).eval(), 32, path, properties)


@pytest.fixture(scope="module")
def fp32(learnt, tmp_path_factory):
    """Return the trained network as an fp32 file, which tests copy."""
    path = tmp_path_factory.mktemp("fp32") / "model.onnx"
    write(learnt[0], path)
    return path


def correct(path, split):
    """Return how many photos a file gets right."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    images = np.ascontiguousarray(split.images[:, 2:34, 2:34])
    (rows,) = session.run(None, {"images": images})
    return int((rows.argmax(1) == split.targets).sum())


def properties(path):
    """Return what a file says of itself, and its operators."""
    model = onnx.load(path)
    return {each.key: each.value for each in model.metadata_props}, {
        node.op_type for node in model.graph.node
    }


def test_int8_answers_as_fp32_does(learnt, fp32, tmp_path):
    """A calibrated file keeps accuracy and answers within the gate, is small, and says so."""
    split = learnt[2]
    path = Path(shutil.copy(fp32, tmp_path))
    cost = reduce(path, "int8", split, split, num_correct=correct(path, split))
    assert path.stat().st_size < 15 * 2**20, "ResNet18 has 45 MB in fp32"
    assert cost.agreement > MIN_AGREEMENT
    assert cost.fp32_val_top1 - cost.val_top1 <= MAX_TOP1_LOSS
    assert cost.val_top1 == correct(path, split) / len(split.targets)
    assert "static, per channel" in cost.how
    said, operators = properties(path)
    assert "QuantizeLinear" in operators
    assert "int8" == said["precision"] == json.loads(said["precision_cost"])["precision"]
    assert json.loads(said["precision_cost"])["agreement"] == cost.agreement
    assert said["labels"] == '["a"]'
    assert "" == said["test_top1"], "the test split was never asked in int8"
    assert [path] == list(tmp_path.iterdir())


def test_any_number_of_photos_calibrates(learnt, fp32, tmp_path):
    """Also one that no whole number of batches holds, with what counts in histograms."""
    images = np.resize(learnt[2].images[:, 2:34, 2:34], (37, 32, 32, 3))
    to_int8(fp32, tmp_path / "int8.onnx", images, calibration="percentile")
    assert (tmp_path / "int8.onnx").stat().st_size < 15 * 2**20


def test_no_two_products_of_int8_overflow_16_bits(learnt, fp32, tmp_path):
    """CPUs without VNNI add two products of 0 to 255 and a weight in 16 bits: on all the same."""
    photos = learnt[2].images[:, 2:34, 2:34]
    largest = {}
    for bits in (7, 8):
        to_int8(fp32, tmp_path / "int8.onnx", photos, weight_bits=bits)
        weights = [
            onnx.numpy_helper.to_array(each)
            for each in onnx.load(tmp_path / "int8.onnx").graph.initializer
            if each.data_type == onnx.TensorProto.INT8 and len(each.dims) > 1
        ]
        assert len(weights) > 15
        largest[bits] = max(int(np.abs(each.astype(int)).max()) for each in weights)

    assert 2 * 255 * largest[7] < 2**15 < 2 * 255 * largest[8]


def test_what_int8_ruins_is_refused(learnt, tmp_path, monkeypatch):
    """A network whose channels differ by powers of two answers the same in fp32, not in int8.

    A channel that is multiplied before a ReLU and divided after it changes nothing, but one scale
    for all of them leaves most of them nothing but zeros.
    """
    monkeypatch.setattr(quantisation, "_INT8_VARIANTS", quantisation._INT8_VARIANTS[:2])
    model, cache, split = learnt
    spread = build(len(cache.labels), seed=0)
    spread.load_state_dict(model.state_dict())
    spread.eval()
    with torch.no_grad():
        for layer in (spread.layer1, spread.layer2, spread.layer3, spread.layer4):
            for block in layer:
                scale = 2.0 ** (torch.arange(block.bn1.num_features) % 20)
                block.bn1.weight *= scale
                block.bn1.bias *= scale
                block.conv2.weight /= scale[None, :, None, None]
    path = tmp_path / "model.onnx"
    write(spread, path)
    before, num_correct = path.read_bytes(), correct(path, split)
    with pytest.raises(ExportError, match=r"int8 changes this model too much.*agreement"):
        reduce(path, "int8", split, split, num_correct=num_correct)
    assert before == path.read_bytes()
    assert [path] == list(tmp_path.iterdir())


def test_auto_is_the_fastest_that_passes(learnt, fp32, tmp_path):
    """What is published is no slower than fp32 here, and passes the gate."""
    split = learnt[2]
    path = Path(shutil.copy(fp32, tmp_path))
    cost = reduce(path, "auto", split, split, num_correct=correct(path, split))
    assert cost.speedup >= 1
    assert cost.agreement > MIN_AGREEMENT
    assert cost.precision == properties(path)[0]["precision"]


@pytest.mark.usefixtures("exports_once")
def test_a_run_is_exported_in_the_precision_asked_for(run_dir, tmp_path):
    """`export` knows each precision by its name, and no other."""
    with pytest.raises(ExportError, match="precision must be one of fp32, fp16, int8, auto"):
        export_onnx(run_dir, tmp_path / "model.onnx", precision="int4")
    assert [] == list(tmp_path.iterdir())
    found = export_onnx(run_dir, tmp_path / "model.onnx", precision="fp16")
    assert ("fp16", found.val_top1) == (found.cost.precision, found.cost.val_top1)
    assert found.path.stat().st_size < 25 * 2**20
    session = onnxruntime.InferenceSession(found.path, providers=["CPUExecutionProvider"])
    assert "tensor(uint8)" == session.get_inputs()[0].type
    assert "tensor(float)" == session.get_outputs()[0].type


needs_bf16 = pytest.mark.skipif(
    not (openvino.installed() and openvino.bf16_unit()),
    reason="no OpenVINO, or a CPU without bf16",
)


@needs_bf16
def test_bf16_is_allowed_where_it_answers_alike(learnt, fp32, tmp_path):
    """The file stays the fp32 one; it says what bf16 costs, and that it may be used."""
    split = learnt[2]
    path = Path(shutil.copy(fp32, tmp_path))
    cost = reduce(path, "fp32", split, split, num_correct=correct(path, split))
    said, operators = properties(path)

    assert "QuantizeLinear" not in operators
    assert ("fp32", "allowed") == (said["precision"], said["bf16"])
    assert cost.bf16.cost.agreement == json.loads(said["bf16_cost"])["agreement"] > MIN_AGREEMENT
    assert "OpenVINO" in json.loads(said["bf16_cost"])["how"]


@needs_bf16
def test_what_bf16_ruins_is_refused(learnt, tmp_path):
    """What all classes have in common cancels in fp32; in bf16 it rounds off what they have not."""
    model, cache, split = learnt
    shifted = build(len(cache.labels), seed=0)
    shifted.load_state_dict(model.state_dict())
    with torch.no_grad():
        shifted.fc.weight += 100
    path = tmp_path / "model.onnx"
    write(shifted.eval(), path)
    cost = reduce(path, "fp32", split, split, num_correct=correct(path, split))

    assert "fp32" == cost.precision
    assert "refused" == cost.bf16.verdict == properties(path)[0]["bf16"]
    assert not cost.bf16.cost.passes


@pytest.mark.parametrize(
    ("unit", "there", "why"), [("", True, "this CPU"), ("AMX", False, "its plugin")]
)
def test_what_is_not_there_is_not_measured(learnt, fp32, tmp_path, monkeypatch, unit, there, why):
    """Such a file is served in fp32 everywhere."""
    monkeypatch.setattr(openvino, "bf16_unit", lambda: unit)
    monkeypatch.setattr(openvino, "installed", lambda: there)
    split = learnt[2]
    path = Path(shutil.copy(fp32, tmp_path))
    cost = reduce(path, "fp32", split, split, num_correct=correct(path, split))

    assert cost.bf16.why.startswith(why)
    assert ("not measured", "") == tuple(properties(path)[0][key] for key in ("bf16", "bf16_cost"))
