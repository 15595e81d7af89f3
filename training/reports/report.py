"""A run directory → `report.html` and `plots/`, from files alone: nothing is trained or evaluated.

config.json, metrics.jsonl, predictions-*.npz ─► numbers (metrics, convergence) ─► figures ─► page
"""

import shlex
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.pixels.preprocessing import ImageError, load_square
from training.config import flatten
from training.data.cache import DatasetCache
from training.errors import ConfigError, DataError
from training.evaluation import metrics
from training.evaluation.convergence import DEFINITIONS, Convergence, measure
from training.evaluation.metrics import PerClass, Predictions, Scores
from training.pages import page
from training.pages.figures import PageFigure
from training.recipes import recipe
from training.reports import plots
from training.runs.run_record import RunRecord

_MISTAKES = 24
_CONFUSIONS = 15
_SHOWN_CLASSES = 500
_PHOTO_PX = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """Every number of a report."""

    convergence: Convergence | None
    """None with fewer than five epochs."""
    scores: dict[str, Scores]
    """By split, as the model answers (uncalibrated); empty without stored predictions."""
    matrix: metrics.Ints | None
    """[K, K] validation photos by true (rows) and predicted class."""
    per_class: PerClass | None
    """Of the validation photos."""

    def to_dict(self, labels: tuple[str, ...]) -> dict[str, Any]:
        """Return it ready for JSON."""
        return {
            "convergence": self.convergence and self.convergence.to_dict(),
            "scores": {split: asdict(found) for split, found in self.scores.items()},
            "per_class": [] if self.per_class is None else class_rows(self.per_class, labels),
            "confusions": [] if self.matrix is None else confusions(self.matrix, labels),
        }


def measured(record: RunRecord) -> Measured:
    """Compute every number of a run's report."""
    given = {"val": record.val, "test": record.test}
    scores = {split: metrics.scores(found) for split, found in given.items() if found is not None}
    matrix = None
    if record.val is not None:
        matrix = metrics.confusion(record.val.targets, record.val.predicted, len(record.labels))
    return Measured(
        convergence=measure(
            [epoch["val_top1"] for epoch in record.history],
            None if record.val is None else len(record.val.targets),
        ),
        scores=scores,
        matrix=matrix,
        per_class=None if matrix is None else metrics.per_class(matrix),
    )


def write(run_dir: Path, photos_root: Path | None = None) -> Path:
    """Write `report.html` and `plots/` into a run directory; return the page's path.

    The photos of mistakes come from the dataset cache that the run names, or from `photos_root`.

    Raises:
        RunError: There is no run, it has no whole epoch yet, or a file of it is damaged.
    """
    record = RunRecord.open(run_dir)
    numbers = measured(record)
    mistakes, why_none = _mistakes(record, photos_root)
    context = {
        "record": record,
        "numbers": numbers,
        "figures": {drawn.name: drawn for drawn in _figures(record, numbers)},
        "summary": summary(record, numbers),
        "definitions": list(zip(DEFINITIONS, _points(numbers.convergence), strict=True)),
        "classes": numbers.per_class and class_rows(numbers.per_class, record.labels),
        "shown_classes": _SHOWN_CLASSES,
        "confusions": None if numbers.matrix is None else confusions(numbers.matrix, record.labels),
        "mistakes": mistakes,
        "why_no_mistakes": why_none,
        "calibrated": _calibrated_ece(record),
        "stages": stages(record),
        "settings": flatten(record.config),
        "command": command(record),
    }
    out = run_dir / "report.html"
    page.write("report.html.j2", out, context)
    return out


def _figures(record: RunRecord, numbers: Measured) -> list[PageFigure]:
    folder, best = record.path / "plots", record.best["epoch"]
    drawn = [
        plots.accuracy(record.history, best, numbers.convergence, folder),
        plots.loss(record.history, best, folder),
        plots.speed(record.history, folder),
    ]
    if record.val is not None and numbers.matrix is not None and numbers.per_class is not None:
        drawn += [
            plots.confusion_matrix(numbers.matrix, record.labels, folder),
            plots.weakest(numbers.per_class, record.labels, folder),
            plots.reliability(metrics.reliability(record.val), folder),
        ]
        if record.temperature is not None:
            calibrated = metrics.reliability(record.val.calibrated(record.temperature))
            drawn.append(plots.reliability(calibrated, folder, calibrated=True))
    return drawn


def class_rows(found: PerClass, labels: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return a row for each class, the lowest F1 first; None where nothing was counted."""

    def rate(rates: metrics.Rates, index: int) -> dict[str, float | None]:
        values = {"value": rates.value[index], "low": rates.low[index], "high": rates.high[index]}
        return {name: None if np.isnan(v) else float(v) for name, v in values.items()}

    order = np.argsort(found.f1.value, kind="stable")
    return [
        {
            "label": labels[index],
            "support": int(found.support[index]),
            "predicted": int(found.predicted[index]),
            "precision": rate(found.precision, index),
            "recall": rate(found.recall, index),
            "f1": rate(found.f1, index),
        }
        for index in order.tolist()
    ]


def confusions(matrix: metrics.Ints, labels: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return the largest cells beside the diagonal, the largest first."""
    # In the order of the matrix, which ties keep.
    cells = [(is_, taken) for is_, taken in np.argwhere(matrix).tolist() if is_ != taken]
    cells.sort(key=lambda cell: -int(matrix[cell]))
    return [
        {
            "is": labels[is_], "taken_for": labels[taken], "count": int(matrix[is_, taken]),
            "share": int(matrix[is_, taken]) / int(matrix[is_].sum()),
        }
        for is_, taken in cells[:_CONFUSIONS]
    ]  # fmt: skip


def summary(record: RunRecord, numbers: Measured) -> list[str]:
    """Return what a colleague should know, a sentence each."""
    best, last = record.best, record.history[-1]
    said = []
    val = numbers.scores.get("val")
    interval = f" (95 %: {page.span(val.top1_interval)})" if val else ""
    said.append(
        f"Best validation top-1 is {page.percent(best['val_top1'])}{interval}, at epoch"
        f" {best['epoch']} of {last['epoch']}."
    )
    test = numbers.scores.get("test")
    if test:
        said.append(
            f"On the test photos, which chose nothing, that epoch reaches"
            f" {page.percent(test.top1)} (95 %: {page.span(test.top1_interval)})."
        )
    if record.result is None:
        said.append("The run is not finished: this is what its epochs so far show.")
    if numbers.convergence:
        said.append(numbers.convergence.advice())
    lowest = min(record.history, key=lambda epoch: epoch["val_loss"])
    if lowest["epoch"] < last["epoch"] and last["val_loss"] > 1.1 * lowest["val_loss"]:
        said.append(
            f"Validation loss was lowest at epoch {lowest['epoch']} and has risen by"
            f" {page.percent(last['val_loss'] / lowest['val_loss'] - 1, 0)} since: it overfits."
        )
    if numbers.matrix is not None and (found := confusions(numbers.matrix, record.labels)):
        first = found[0]
        said.append(
            f"The commonest confusion: {first['is']} taken for {first['taken_for']},"
            f" {first['count']} times ({page.percent(first['share'], 0)} of its photos)."
        )
    return said


def _points(found: Convergence | None) -> list[int | None]:
    if found is None:
        return [None] * len(DEFINITIONS)
    return [found.knee, found.settled, found.converged, found.budget]


def _calibrated_ece(record: RunRecord) -> float | None:
    if record.val is None or record.temperature is None:
        return None
    return metrics.reliability(record.val.calibrated(record.temperature)).ece


def _mistakes(
    record: RunRecord, photos_root: Path | None
) -> tuple[list[dict[str, Any]], str | None]:
    """Return the wrong answers that were given with most confidence, and why there are none."""
    if record.val is None:
        return [], "This run stored no predictions; runs trained from now on do."
    found: Predictions = record.val
    predicted = found.predicted
    wrong = np.flatnonzero(predicted != found.targets)
    if not len(wrong):
        return [], "There are none: every validation photo was recognised."
    sure = found.probabilities[wrong, predicted[wrong]]
    chosen = wrong[np.argsort(-sure, kind="stable")[:_MISTAKES]].tolist()
    look, why_none = _photos(record, photos_root)
    rows = []
    for row in chosen:
        photo = look(found.files[row])
        rows.append(
            {
                "file": found.files[row],
                "is": record.labels[found.targets[row]],
                "taken_for": record.labels[predicted[row]],
                "probability": float(found.probabilities[row, predicted[row]]),
                "true_probability": float(found.probabilities[row, found.targets[row]]),
                "photo": None if photo is None else page.picture(photo, _PHOTO_PX),
            }
        )
    return rows, why_none


def _photos(
    record: RunRecord, root: Path | None
) -> tuple[Callable[[str], NDArray[np.uint8] | None], str | None]:
    """Return what finds a validation photo by its file, and why it finds none."""
    try:
        split = DatasetCache.open(record.cache).splits["val"]
    except (DataError, KeyError, OSError):
        split = None
    if split is not None:
        rows = {file: row for row, file in enumerate(split.files)}

        def cached(file: str) -> NDArray[np.uint8] | None:
            return np.asarray(split.images[rows[file]]) if file in rows else None

        return cached, None
    if root is None:
        return lambda _: None, (
            f"The photos cannot be shown: the dataset cache {record.cache} is gone. Prepare it"
            " again, or name their folder: hansang report RUN --photos DATA."
        )

    def read(file: str) -> NDArray[np.uint8] | None:
        try:
            return load_square((root / file).read_bytes(), _PHOTO_PX)
        except (ImageError, OSError):
            return None

    return read, None


def stages(record: RunRecord) -> list[tuple[str, float | None, str]]:
    """Return (stage, seconds in all, remark) of a run, as far as its lines tell."""

    def total(key: str) -> float | None:
        found = [epoch[key] for epoch in record.history if key in epoch]
        return float(sum(found)) if found else None

    train_s, wait_s, eval_s = total("train_s"), total("data_wait_s"), total("eval_s")
    if train_s is None:
        train_s = _train_s(record)
    rates = [epoch["photos_per_s"] for epoch in record.history]
    said = f"median {np.median(rates):,.0f} photos/s"
    rows: list[tuple[str, float | None, str]] = [("Training", train_s, said)]
    if wait_s is not None:
        share = f"{page.percent(wait_s / train_s)} of training" if train_s else ""
        rows.append(("Waiting for data", wait_s, share))
    if eval_s is not None:
        rows.append(("Validation", eval_s, f"{eval_s / len(record.history):.1f} s an epoch"))
    if (save_s := total("save_s")) is not None:
        rows.append(("Writing checkpoints", save_s, ""))
    return rows


def _train_s(record: RunRecord) -> float | None:
    """Return the seconds of training of a run that did not write them down, from its rates."""
    batch, seconds, before = record.config.get("batch_size"), 0.0, 0
    if batch is None:
        return None
    for epoch in record.history:
        if "steps" not in epoch or not epoch["photos_per_s"]:
            return None
        seconds += (epoch["steps"] - before) * batch / epoch["photos_per_s"]
        before = epoch["steps"]
    return seconds


def command(record: RunRecord) -> str:
    """Return the command that trains such a run, every setting that differs from its recipe."""
    name = str(record.config.get("recipe", "scratch"))
    given = flatten(record.config)
    try:
        usual = flatten(recipe(name).to_dict())
    except ConfigError:
        usual = {}
    words = ["hansang", "train", "DATA", "--recipe", name]
    for option in ("epochs", "image_size", "seed"):
        if option in given:
            words += [f"--{option.replace('_', '-')}", str(given[option])]
    for key, setting in given.items():
        if key not in ("recipe", "epochs", "image_size", "seed") and usual.get(key) != setting:
            words += ["--set", f"{key}={setting}"]
    return shlex.join(words)
