"""The best epoch of a run → one ONNX file, and the gate that lets it pass.

uint8 `images` (N, S, S, 3) → float32 `probabilities` (N, K), as specified in
docs/reference/model-contract.md.
"""

import json
import logging
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from service.pixels.preprocessing import PREPROCESSING, centre_crop
from terminal import Progress, no_progress
from training.data.cache import DatasetCache, Split
from training.errors import ExportError, RunError
from training.evaluation.calibration import fit_temperature
from training.export.precision import Cost, reduce
from training.files import replacing
from training.model.resnet import Served, build
from training.runs import checkpoint, run_directory

BATCHES = (7, 1)
"""The gate's batch sizes. 1 and an odd one: exporters have fixed the batch, silently."""

MAX_DIFFERENCE = 1e-4
TIE = 1e-5
_OPSET = 18


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


def export(
    run_dir: Path, out: Path, *, precision: str = "fp32", progress: Progress = no_progress
) -> Export:
    """Export the best epoch and check it on every validation photo; `out` exists if it passed.

    Args:
        run_dir: The run directory.
        out: Where the ONNX file goes.
        precision: `fp32`, `fp16`, `int8`, or `auto` for the fastest on this device that passes
            the gate of `training/export/precision.py`.
        progress: Hears how far it is.

    Raises:
        RunError: The run has no best epoch.
        DataError: Its dataset cache is gone.
        ExportError: onnxruntime does not answer as torch does; the message names the photo. Or the
            precision changes too much.
    """
    about = run_directory.read(run_dir)
    best = run_dir / "checkpoints" / checkpoint.BEST
    if about is None or not best.exists():
        raise RunError(f"{run_dir} has no best epoch to release; train it first: hansang train")
    cache = DatasetCache.open(Path(about["cache"]))
    if cache.dataset_hash != about["dataset_hash"]:
        raise RunError(f"the dataset cache {cache.path} is not the one that {run_dir} learnt from")
    tensors, state = checkpoint.load(best)
    record = state["history"][-1]
    image_size = about["config"]["image_size"]
    model = build(len(cache.labels), seed=0)
    model.load_state_dict(checkpoint.model_tensors(tensors))
    flip_average = about["config"].get("flip_average", False)
    served = _calibrated(model.eval(), flip_average, cache.splits["val"], image_size)
    properties = {
        "schema_version": "1",
        "labels": json.dumps(cache.labels, ensure_ascii=False),
        "image_size": str(image_size),
        "resize": PREPROCESSING,
        "model_version": f"{run_dir.name}/epoch-{record['epoch']}",
        "git_commit": about["git_commit"],
        "dataset_hash": cache.dataset_hash,
        "run_id": run_dir.name,
        "epoch": str(record["epoch"]),
        "val_top1": repr(record["val_top1"]),
        "test_top1": _test_top1(run_dir, record["epoch"]),
        "temperature": repr(served.temperature),
    }
    with replacing(out) as temporary:
        write_onnx(served, image_size, temporary, properties)
        num_correct, difference = check_parity(served, temporary, cache.splits["val"], progress)
        num_photos = len(cache.splits["val"].targets)
        num_reported = round(record["val_top1"] * num_photos)
        off_by = abs(num_correct - num_reported)
        if off_by and off_by > _num_ties(_answers(served, cache.splits["val"], image_size)):
            raise ExportError(
                f"{run_dir} reports {num_reported} of {num_photos} validation photos right, and the"
                f" exported model has {num_correct}; nothing was published"
            )
        cost = reduce(
            temporary, precision, cache.splits["train"], cache.splits["val"],
            num_correct=num_correct,
        )  # fmt: skip
    return Export(
        path=out,
        epoch=record["epoch"],
        val_top1=cost.val_top1,
        photos_checked=num_photos,
        max_difference=difference,
        cost=cost,
    )


def write_onnx(served: nn.Module, image_size: int, path: Path, properties: dict[str, str]) -> None:
    """Write a served model as one ONNX file with its properties."""
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
    onnx.checker.check_model(proto)
    path.write_bytes(proto.SerializeToString())


def check_parity(
    served: nn.Module, path: Path, split: Split, progress: Progress = no_progress
) -> tuple[int, float]:
    """Compare onnxruntime with torch, photo by photo, at each of the gate's batch sizes.

    Returns how many photos onnxruntime gets right, and the largest difference of a probability.

    Raises:
        ExportError: A photo has another top-1 (other than a tie within 1e-5), or a probability
            differs by 1e-4 or more; the message names it.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ExportError(f"onnxruntime cannot open the exported model: {error}") from error
    size = session.get_inputs()[0].shape[1]
    num_photos = len(split.targets)
    expected = _answers(served, split, size)
    num_correct, worst = 0, 0.0
    for index, batch in enumerate(BATCHES):
        num_correct = 0
        for start in range(0, num_photos, batch):
            images = np.ascontiguousarray(centre_crop(split.images[start : start + batch], size))
            try:
                (answered,) = session.run(["probabilities"], {"images": images})
            except Exception as error:
                raise ExportError(
                    f"the exported model fails on a batch of {len(images)}: {error}"
                ) from error
            rows = slice(start, start + batch)
            worst = max(worst, _compare(expected[rows], answered, split.files[rows]))
            targets = split.targets[start : start + batch]
            num_correct += int((answered.argmax(1) == targets).sum())
            progress(index * num_photos + start + len(images), len(BATCHES) * num_photos)
    return num_correct, worst


def _answers(served: nn.Module, split: Split, size: int) -> NDArray[np.float32]:
    """Return torch's probabilities, (N, K)."""
    # In large batches: on shared cores torch's threads wait long for each other in small ones.
    rows = [slice(start, start + 64) for start in range(0, len(split.targets), 64)]
    with torch.no_grad():
        answers = [
            served(torch.from_numpy(np.ascontiguousarray(centre_crop(split.images[r], size))))
            for r in rows
        ]
    probabilities: NDArray[np.float32] = torch.cat(answers).numpy()
    return probabilities


def _calibrated(model: nn.Module, flip_average: bool, split: Split, size: int) -> Served:
    """Return the model as it is served, with the temperature that suits the validation split."""
    plain = Served(model, flip_average=flip_average).eval()
    # A logarithm of probabilities is as good as logits: they differ by a constant a photo.
    logits = np.log(np.maximum(_answers(plain, split, size), np.finfo(np.float32).tiny))
    temperature = fit_temperature(logits, split.targets)
    return Served(model, flip_average=flip_average, temperature=temperature).eval()


def _num_ties(probabilities: NDArray[np.float32]) -> int:
    first_two = np.sort(probabilities, axis=1)[:, -2:]
    return int((first_two[:, 1] - first_two[:, 0] <= TIE).sum())


def _compare(
    expected: NDArray[np.float32], answered: NDArray[np.float32], files: tuple[str, ...]
) -> float:
    if expected.shape != answered.shape:
        raise ExportError(f"the exported model answers {answered.shape}, torch {expected.shape}")
    difference = np.abs(expected - answered).max(1)
    chosen = answered.argmax(1)
    rows = np.arange(len(expected))
    behind = expected.max(1) - expected[rows, chosen]
    # Written so that NaN fails.
    good = (difference < MAX_DIFFERENCE) & (behind <= TIE)
    if not good.all():
        row = int(np.flatnonzero(~good)[0])
        raise ExportError(
            f"the exported model is not the trained one: on {files[row]} torch says class"
            f" {expected[row].argmax()} ({expected[row].max():.6f}), onnxruntime class"
            f" {chosen[row]} ({answered[row, chosen[row]]:.6f}); nothing was published"
        )
    return float(difference.max())


def _test_top1(run_dir: Path, epoch: int) -> str:
    try:
        result = json.loads((run_dir / "result.json").read_text("utf-8"))
    except FileNotFoundError:
        # Released while it trains, or after it was stopped: the test split was not looked at.
        return ""
    known = result["best_epoch"] == epoch and result["test_top1"] is not None
    return repr(result["test_top1"]) if known else ""
