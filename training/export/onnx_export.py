"""The best epoch of a run → one ONNX file, if it passes the parity gate.

uint8 `images` (N, S, S, 3) → float32 `probabilities` (N, K), as in
docs/reference/model-contract.md.
"""

import hashlib
import itertools
import json
import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from service.pixels.preprocessing import PREPROCESSING
from terminal import Progress, no_progress
from training.data.cache import DatasetCache, Split
from training.errors import ExportError, RunError
from training.evaluation.calibration import fit_temperature
from training.export.parity import check_parity, num_ties, torch_answers
from training.export.precision import Cost, reduce
from training.files import replacing
from training.model.resnet import Served, build
from training.runs import checkpoint, run_directory

_OPSET = 18
_COMMON = 1000
"""Classes that a file calls common if it has more: as many as the service counts one by one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Export:
    """An exported model that passed the gate."""

    path: Path
    epoch: int
    val_top1: float
    """Of the exported file, counted by onnxruntime, as a fraction."""
    photos_checked: int
    max_difference: float
    """Largest difference of a probability between torch and onnxruntime, in fp32."""
    cost: Cost
    """What its precision costs and gains."""


def best_digest(run_dir: Path) -> str:
    """Return the SHA-256 of the checkpoint of a run's best epoch.

    Raises:
        RunError: The run has no best epoch.
    """
    with _best(run_dir)[0].open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _best(run_dir: Path) -> tuple[Path, dict[str, Any]]:
    """Return the checkpoint of a run's best epoch, and what config.json says of the run."""
    best, about = run_dir / "checkpoints" / checkpoint.BEST, run_directory.read(run_dir)
    if about is None or not best.exists():
        raise RunError(f"{run_dir} has no best epoch to release; train it first: hansang train")
    return best, about


def export_onnx(
    run_dir: Path,
    out: Path,
    *,
    precision: str = "fp32",
    min_confidence: float | None = None,
    progress: Progress = no_progress,
) -> Export:
    """Export the best epoch and check it on every validation photo; `out` exists if it passed.

    Args:
        run_dir: The run directory.
        out: Where the ONNX file goes.
        precision: `fp32`, `fp16`, `int8`, or `auto` for the fastest on this device that passes
            the gate of `training/export/precision.py`.
        min_confidence: The threshold that the file tells: less probable answers are not sure.
        progress: Is called with the photos that are checked.

    Raises:
        RunError: The run has no best epoch.
        DataError: Its dataset cache is gone.
        ExportError: onnxruntime does not answer as torch does; the message names the photo. Or the
            precision changes too much.
    """
    best, about = _best(run_dir)
    cache = DatasetCache.open(Path(about["cache"]))
    if cache.dataset_hash != about["dataset_hash"]:
        raise RunError(f"the dataset cache {cache.path} is not the one that {run_dir} learnt from")
    tensors, state = checkpoint.load(best)
    record = state["history"][-1]
    image_size = about["config"]["image_size"]
    model = build(len(cache.labels), seed=0)
    model.load_state_dict(checkpoint.model_tensors(tensors))
    val = cache.splits["val"]
    flip_average = about["config"].get("flip_average", False)
    served = _calibrated(model.eval(), flip_average, val, image_size)
    with replacing(out) as temporary:
        properties = _properties(run_dir, about, cache, record, served.temperature)
        if min_confidence is not None:
            properties["min_confidence"] = repr(min_confidence)
        write_onnx(served, image_size, temporary, properties)
        num_correct, difference = check_parity(served, temporary, val, progress)
        num_photos = len(val.targets)
        num_reported = round(record["val_top1"] * num_photos)
        off_by = abs(num_correct - num_reported)
        validated_on = about.get("computing", {}).get("device", "cpu")
        if off_by and off_by > num_ties(torch_answers(served, val, image_size), validated_on):
            raise ExportError(
                f"{run_dir} reports {num_reported} of {num_photos} validation photos right, and the"
                f" exported model has {num_correct}; nothing was published"
            )
        cost = reduce(temporary, precision, cache.splits["train"], val, num_correct=num_correct)
    return Export(
        path=out, epoch=record["epoch"], val_top1=cost.val_top1, photos_checked=num_photos,
        max_difference=difference, cost=cost,
    )  # fmt: skip


def write_onnx(served: nn.Module, image_size: int, path: Path, properties: dict[str, str]) -> None:
    """Write a served model as one ONNX file with these metadata properties.

    Raises:
        ExportError: torch exports nothing.
    """
    import onnx

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    example = torch.zeros(2, image_size, image_size, 3, dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            served,
            (example,),
            input_names=["images"],
            output_names=["probabilities"],
            dynamic_shapes=({0: torch.export.Dim("N")},),
            opset_version=_OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise ExportError("torch gave no ONNX program")
    proto = program.model_proto
    onnx.helper.set_model_props(proto, properties)
    # torch notes where in the code a node comes from: paths of the machine that exported.
    for node in itertools.chain(proto.graph.node, *(each.node for each in proto.functions)):
        del node.metadata_props[:]
    onnx.checker.check_model(proto)
    path.write_bytes(proto.SerializeToString())


def _properties(
    run_dir: Path, about: Mapping[str, Any], cache: DatasetCache, record: Mapping[str, Any],
    temperature: float,
) -> dict[str, str]:  # fmt: skip
    """Return what the file says of itself; `record` is the metrics line of the best epoch."""
    properties = {
        "schema_version": "1",
        "labels": json.dumps(cache.labels, ensure_ascii=False),
        "image_size": str(about["config"]["image_size"]),
        "resize": PREPROCESSING,
        "model_version": f"{run_dir.name}/epoch-{record['epoch']}",
        "git_commit": about["git_commit"],
        "dataset_hash": cache.dataset_hash,
        "run_id": run_dir.name,
        "epoch": str(record["epoch"]),
        "val_top1": repr(record["val_top1"]),
        "test_top1": _test_top1(run_dir, record["epoch"]),
        "temperature": repr(temperature),
    }
    if len(cache.labels) > _COMMON:
        properties["common_labels"] = json.dumps(_common(cache), ensure_ascii=False)
    return properties


def _common(cache: DatasetCache) -> list[str]:
    """Return the `_COMMON` classes with the most photos to train on."""
    photos_K = np.bincount(cache.splits["train"].targets, minlength=len(cache.labels))
    return [cache.labels[at] for at in np.argsort(-photos_K, kind="stable")[:_COMMON]]


def _calibrated(model: nn.Module, flip_average: bool, val: Split, size: int) -> Served:
    """Return the model as it is served, with the temperature that suits the validation split."""
    plain = Served(model, flip_average=flip_average).eval()
    # The logarithm of probabilities serves as logits: they differ by a constant for each photo.
    logits = np.log(np.maximum(torch_answers(plain, val, size), np.finfo(np.float32).tiny))
    temperature = fit_temperature(logits, val.targets)
    return Served(model, flip_average=flip_average, temperature=temperature).eval()


def _test_top1(run_dir: Path, epoch: int) -> str:
    """Return the test accuracy of an epoch for the file; empty where it is not known."""
    try:
        result = json.loads((run_dir / "result.json").read_text("utf-8"))
    except FileNotFoundError:
        # The run is under way or was stopped, so the test split is not evaluated yet.
        return ""
    known = result["best_epoch"] == epoch and result["test_top1"] is not None
    return repr(result["test_top1"]) if known else ""
