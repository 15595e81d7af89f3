"""The result of a finished run, and the files that reports and releases read.

result.json                accuracies with their intervals, calibration
predictions-<split>.npz    probabilities [N, K], targets [N], files [N], of the best epoch;
                           groups [N], where photos share some
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from training.data.cache import DatasetCache, Split
from training.evaluation.calibration import expected_calibration_error, fit_temperature, softmax
from training.evaluation.clusters import Clusters
from training.evaluation.evaluation import Evaluation
from training.evaluation.intervals import accuracy_interval
from training.files import replacing, write_text


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """The result of a finished run. Accuracies and errors are fractions, intervals are of 95 %."""

    run_dir: Path
    epochs: int
    best_epoch: int
    """From 1. The highest validation top-1, of equal ones the lowest loss, then the first."""
    val_top1: float
    val_interval: tuple[float, float]
    """The best epoch was chosen on this split, so the test split is less optimistic."""
    val_loss: float
    test_top1: float | None
    """Of the best epoch. The test split is used for nothing else; None if there is none."""
    test_interval: tuple[float, float] | None
    temperature: float
    """Divides the logits in the released file; it is fitted on the validation split."""
    ece_before: float
    """Expected calibration error of the validation split, at temperature 1."""
    ece_after: float
    """The same after dividing the logits by the temperature."""
    photos_per_s: float
    """Mean over the epochs, of training steps without validation and saving."""
    groups: dict[str, int] = field(default_factory=dict)
    """Split → groups that its photos share and its interval counts; 0 where they share none."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as `result.json` holds them."""
        return {**asdict(self), "run_dir": str(self.run_dir)}


def write_result(
    run_dir: Path,
    cache: DatasetCache,
    history: Sequence[Mapping[str, Any]],
    best: Mapping[str, Any],
    evaluations: Mapping[str, Evaluation],
    *,
    write: bool = True,
) -> TrainResult:
    """Return the result of a run, and write its files unless `write` is off.

    Args:
        run_dir: The run directory.
        cache: The photos.
        history: A line of `metrics.jsonl` for each epoch.
        best: The line of the best epoch.
        evaluations: The best epoch's on each held-out split, by name; `val` must be there.
        write: Whether this process writes the files.
    """
    val, test = evaluations["val"], evaluations.get("test")
    clusters = {name: Clusters.of(cache.splits[name].groups) for name in evaluations}
    temperature = fit_temperature(val.logits, val.targets)
    rates = [epoch["photos_per_s"] for epoch in history]
    result = TrainResult(
        run_dir=run_dir,
        epochs=len(history),
        best_epoch=best["epoch"],
        val_top1=best["val_top1"],
        val_interval=accuracy_interval(val.right, clusters["val"]),
        val_loss=best["val_loss"],
        test_top1=None if test is None else test.top1,
        test_interval=None if test is None else accuracy_interval(test.right, clusters["test"]),
        groups={name: found.count if found else 0 for name, found in clusters.items()},
        temperature=temperature,
        ece_before=expected_calibration_error(softmax(val.logits), val.targets),
        ece_after=expected_calibration_error(softmax(val.logits, temperature), val.targets),
        photos_per_s=sum(rates) / len(rates),
    )
    if write:
        for name, evaluation in evaluations.items():
            _write_predictions(run_dir, name, evaluation, cache.splits[name])
        write_text(run_dir / "result.json", json.dumps(result.to_dict(), indent=2))
    return result


def _write_predictions(run_dir: Path, name: str, evaluation: Evaluation, split: Split) -> None:
    with replacing(run_dir / f"predictions-{name}.npz") as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            probabilities=softmax(evaluation.logits).astype(np.float32),
            targets=evaluation.targets,
            files=np.array(split.files),
            groups=np.array(split.groups, dtype=np.str_),
        )
