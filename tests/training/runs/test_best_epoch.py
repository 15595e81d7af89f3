"""The best epoch as a file: the export's gate, and what a validation counts is what is served."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from service.models.metadata import MAX_COUNTED
from tests.training.runs.runs import SETTINGS
from training.config import TrainConfig
from training.data.cache import DatasetCache
from training.data.loader import loader_for
from training.errors import ExportError, RunError
from training.export import onnx_export
from training.export.onnx_export import export_onnx
from training.export.parity import check_parity, num_ties
from training.loop.learner import Learner
from training.model.resnet import Served, build
from training.runs import checkpoint

pytestmark = pytest.mark.usefixtures("exports_once")


def test_the_exported_best_epoch_passes_the_gate(run_dir, tmp_path):
    """Onnxruntime counts the run's own top-1 on every validation photo, at any batch."""
    import onnxruntime

    exported = export_onnx(run_dir, tmp_path / "model.onnx")

    result = json.loads((run_dir / "result.json").read_text())
    assert (result["val_top1"], result["best_epoch"]) == (exported.val_top1, exported.epoch)
    assert exported.max_difference < 1e-4
    assert ["model.onnx"] == [path.name for path in tmp_path.iterdir()]
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for number in (1, 3, 7):
        images = np.zeros((number, 32, 32, 3), np.uint8)
        (rows,) = session.run(None, {"images": images})
        assert (number, 3) == rows.shape
        assert np.allclose(rows.sum(1), 1)


def test_a_file_of_many_classes_names_those_with_the_most_photos(run_dir, tmp_path, monkeypatch):
    """The service counts these by name; files of few classes name none, as all are counted."""
    import onnxruntime

    def named(file):
        export_onnx(run_dir, tmp_path / file)
        session = onnxruntime.InferenceSession(tmp_path / file)
        return session.get_modelmeta().custom_metadata_map.get("common_labels")

    assert onnx_export._COMMON == MAX_COUNTED
    assert named("few.onnx") is None
    monkeypatch.setattr("training.export.onnx_export._COMMON", 2)
    cache = json.loads((run_dir / "config.json").read_text())["cache"]
    photos = Counter(DatasetCache.open(Path(cache)).splits["train"].targets.tolist())
    labels = DatasetCache.open(Path(cache)).labels
    commonest = sorted(range(len(labels)), key=lambda at: -photos[at])[:2]
    assert [labels[at] for at in commonest] == json.loads(named("many.onnx"))


def test_the_gate_refuses_another_model_and_names_a_photo(run_dir, cache, tmp_path):
    """Two classes swapped in the exported file are found, and the photo is named."""
    import onnx

    export_onnx(run_dir, tmp_path / "wrong.onnx")
    tensors, _ = checkpoint.load(run_dir / "checkpoints" / checkpoint.BEST)
    model = build(3, seed=0)
    model.load_state_dict(checkpoint.model_tensors(tensors))
    proto = onnx.load(tmp_path / "wrong.onnx")
    head = [each for each in proto.graph.initializer if list(each.dims) in ([3, 512], [3])]
    assert 2 == len(head)
    for each in head:
        swapped = onnx.numpy_helper.to_array(each)[::-1].copy()
        each.CopyFrom(onnx.numpy_helper.from_array(swapped, each.name))
    onnx.save(proto, tmp_path / "wrong.onnx")

    with pytest.raises(ExportError, match=r"on val/.*\.jpg torch says class"):
        check_parity(Served(model.eval()), tmp_path / "wrong.onnx", cache.splits["val"])


def test_a_tie_is_wider_where_another_device_validated():
    """A CPU's count may differ by what is within 1e-5, and by what is within 1e-4 from CUDA's."""
    gaps = np.array([0, 5e-6, 5e-5, 5e-4, 0.5])
    rows = np.stack([0.5 + gaps / 2, 0.5 - gaps / 2], axis=1).astype(np.float32)

    assert 2 == num_ties(rows, "cpu (AVX512)")
    assert 3 == num_ties(rows, "cuda (NVIDIA H100 80GB HBM3)")


def test_a_run_without_an_epoch_cannot_be_released(tmp_path):
    """A folder that is no finished run says what to do."""
    with pytest.raises(RunError, match="hansang train"):
        export_onnx(tmp_path, tmp_path / "model.onnx")


def test_validation_computes_as_the_served_file_does(cache):
    """Whatever a run trains in, it validates in fp32: to the last bit the same loss."""
    split = cache.splits["val"]
    learners = [
        Learner(TrainConfig(**SETTINGS, precision=precision), 3, torch.device("cpu"))
        for precision in ("fp32", "bf16")
    ]

    fp32, bf16 = (learner.evaluate(loader_for(split, learner.device)).loss for learner in learners)

    assert fp32 == bf16


def test_a_reported_top1_that_the_file_has_not_is_refused(run_dir, tmp_path):
    """A best epoch whose metrics are not those of its weights is not released."""
    shutil.copytree(run_dir, tmp_path / "r")
    best = tmp_path / "r" / "checkpoints" / "best.safetensors"
    tensors, state = checkpoint.load(best)
    record = state["history"][-1]
    record["val_top1"] = 0.0 if record["val_top1"] else 1.0
    checkpoint.save(best, tensors, state)

    with pytest.raises(ExportError, match=r"reports .* validation photos right"):
        export_onnx(tmp_path / "r", tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()
