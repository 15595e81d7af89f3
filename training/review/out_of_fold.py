"""Out-of-fold answers: each photo is judged by a model that has never seen it.

folds ─► ordinary runs on K - 1 folds ─► probabilities of the held-out fold, features of all photos

Shapes: N photos, K classes, D features.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terminal import progress, say
from training.config import TrainConfig
from training.data.cache import DatasetCache, Split
from training.distributed.job_claims import run_jobs
from training.errors import DataError, RunError
from training.evaluation.metrics import Predictions
from training.loop.trainer import train
from training.model.cached_features import cached_features
from training.model.class_maps import best_model
from training.model.stages import HEAD
from training.review.folds import deal, without
from training.runs import checkpoint, run_directory
from training.runs.run_record import RunRecord


@dataclass(frozen=True, slots=True)
class Answers:
    """What models say of photos that they did not learn from."""

    probabilities: NDArray[np.float32]
    """[N, K], calibrated on each held-out fold."""
    fold_of: NDArray[np.int64]
    """[N], the model that judged each photo."""
    features: tuple[NDArray[np.float32], ...]
    """Of every photo by each model, [N, D] on the disk; comparable within one model only."""
    heads: tuple[NDArray[np.float32], ...]
    """[K, D] of each model, from features to logits."""
    biases: tuple[NDArray[np.float32], ...]
    """[K] of each model, added to them."""
    runs: tuple[Path, ...]
    """The run that each model's features are of."""


def train_folds(
    cache: DatasetCache, photos: Split, config: TrainConfig, folder: Path, *, folds: int,
    device: str = "auto", accept_changes: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
) -> Answers:  # fmt: skip
    """Train a run for each fold in `folder`, unless it is finished, and return their answers.

    Other processes with the same folder share the folds.

    Raises:
        TrainingError: A run was stopped, or failed; the same command goes on.
    """
    fold_of = deal(photos, folds)
    caches = [without(cache, photos, fold_of, fold) for fold in range(folds)]
    runs = [folder / f"fold-{fold + 1}-of-{folds}" for fold in range(folds)]

    def learn(fold: int) -> None:
        if (runs[fold] / "result.json").is_file():
            # Its checkpoints may be gone, so it is not resumed; but it must be this very run.
            run_directory.open_or_create(runs[fold], config, caches[fold], {})
            return
        say(f"fold {fold + 1} of {folds}: {runs[fold]}")
        with progress(f"fold {fold + 1}") as report:
            train(
                config, caches[fold], runs[fold], device=device, accept_changes=accept_changes,
                should_stop=should_stop, progress=report,
            )  # fmt: skip
        # Only resuming needs the other checkpoints.
        checkpoint.keep_only(runs[fold] / "checkpoints", [])

    run_jobs(range(folds), learn, should_stop)
    probabilities = np.zeros((len(photos.files), len(cache.labels)), np.float32)
    for fold, run_dir in enumerate(runs):
        probabilities[fold_of == fold] = _held_out(run_dir, caches[fold])
    features = tuple(features_of(run_dir, cache, photos) for run_dir in runs)
    heads = [_model(run_dir).fc for run_dir in runs]
    return Answers(
        probabilities,
        fold_of,
        features,
        tuple(head.weight.detach().numpy() for head in heads),
        tuple(head.bias.detach().numpy() for head in heads),
        tuple(runs),
    )


def features_of(run_dir: Path, cache: DatasetCache, photos: Split) -> NDArray[np.float32]:
    """Return what a run's best epoch sees in each photo, before its head: [N, D], on the disk.

    Raises:
        RunError: Its best checkpoint is gone.
        DataError: The disk has no room for the features.
    """
    model = _model(run_dir)
    one = replace(cache, splits={"all": photos})
    found = cached_features(one, "all", model, HEAD, image_size=cache.image_size)
    if found is None:
        raise DataError(f"no space for features beside {cache.path}; free some")
    images: Any = found.images
    rows: NDArray[np.float32] = images.reshape(len(images), -1)
    return rows


def _model(run_dir: Path) -> Any:
    try:
        return best_model(run_dir)
    except checkpoint.DamagedError as error:
        raise RunError(f"{error}; remove {run_dir} and give the same command again") from error


def _held_out(run_dir: Path, cache: DatasetCache) -> NDArray[np.float32]:
    """Return the calibrated probabilities of a fold, in the order of its photos."""
    record = RunRecord.open(run_dir)
    found = Predictions.load(run_dir, "val", len(cache.labels))
    if found is None or found.files != cache.splits["val"].files:
        raise RunError(f"{run_dir} has no predictions of its fold; remove it and train it again")
    temperature = 1.0 if record.result is None else record.result["temperature"]
    return found.calibrated(temperature).probabilities
