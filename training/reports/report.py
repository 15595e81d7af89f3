"""A run directory → `report.html` and `plots/`, from files alone: nothing is trained or evaluated.

The weights of the best epoch, where they are there, only say why its surest mistakes were made.

config.json, metrics.jsonl, predictions-*.npz ─► run_numbers ─► figures, sentences, mistakes ─► page
"""

import shlex
from pathlib import Path

import numpy as np

from training.errors import ConfigError
from training.evaluation import metrics
from training.evaluation.convergence import DEFINITIONS, Convergence
from training.evaluation.intervals import method
from training.evaluation.selective import Answered
from training.pages import page
from training.pages.figures import PageFigure
from training.recipes import recipe
from training.reports import plots
from training.reports.mistakes import mistakes
from training.reports.run_numbers import RunNumbers, class_rows, confusions, numbers_of
from training.runs.run_record import RunRecord
from training.setting_names import flatten

_SHOWN_CLASSES = 500
"""The most classes in the page's table."""


def write_report(run_dir: Path, photos_root: Path | None = None) -> Path:
    """Write `report.html` and `plots/` into a run directory; return the page's path.

    The photos of mistakes come from the dataset cache that the run names, or from `photos_root`.

    Raises:
        RunError: There is no run, its first epoch is not finished, or a file is damaged.
    """
    record = RunRecord.open(run_dir)
    numbers = numbers_of(record)
    rows, why_none = mistakes(record, photos_root)
    context = {
        "record": record,
        "numbers": numbers,
        "figures": {figure.name: figure for figure in _figures(record, numbers)},
        "summary": summary(record, numbers),
        "definitions": list(zip(DEFINITIONS, _points(numbers.convergence), strict=True)),
        "classes": numbers.per_class and class_rows(numbers.per_class, record.labels),
        "shown_classes": _SHOWN_CLASSES,
        "confusions": None if numbers.matrix is None else confusions(numbers.matrix, record.labels),
        "mistakes": rows,
        "why_no_mistakes": why_none,
        "calibrated": _calibrated_ece(record),
        "thresholds": _thresholds(numbers),
        "stages": stages(record),
        "settings": flatten(record.config),
        "command": command(record),
    }
    out = run_dir / "report.html"
    page.write("report.html.j2", out, context)
    return out


def _figures(record: RunRecord, numbers: RunNumbers) -> list[PageFigure]:
    folder, best = record.path / "plots", record.best["epoch"]
    figures = [
        plots.accuracy(record.history, best, numbers.convergence, folder),
        plots.loss(record.history, best, folder),
        plots.speed(record.history, folder),
    ]
    if record.val is not None and numbers.matrix is not None and numbers.per_class is not None:
        figures += [
            plots.confusion_matrix(numbers.matrix, record.labels, folder),
            plots.weakest(numbers.per_class, record.labels, folder),
            plots.coverage(numbers.answered, numbers.halving, folder),
            plots.reliability(metrics.reliability(record.val), folder),
        ]
        if record.temperature is not None:
            calibrated = metrics.reliability(record.val.calibrated(record.temperature))
            figures.append(plots.reliability(calibrated, folder, calibrated=True))
    return figures


def summary(record: RunRecord, numbers: RunNumbers) -> list[str]:
    """Return the sentences at the top of the report: what came out, and what to do about it."""
    best, last = record.best, record.history[-1]
    sentences = []
    val = numbers.scores.get("val")
    interval = f" (95 %: {page.span(val.top1_interval)}, {method(val.groups)})" if val else ""
    sentences.append(
        f"Best validation top-1 is {page.percent(best['val_top1'])}{interval}, at epoch"
        f" {best['epoch']} of {last['epoch']}."
    )
    test = numbers.scores.get("test")
    if test:
        sentences.append(
            f"On the test photos, which chose nothing, that epoch reaches"
            f" {page.percent(test.top1)} (95 %: {page.span(test.top1_interval)},"
            f" {method(test.groups)})."
        )
    if record.result is None:
        sentences.append("The run is not finished: this is what its epochs so far show.")
    if numbers.convergence:
        sentences.append(numbers.convergence.advice())
    lowest = min(record.history, key=lambda epoch: epoch["val_loss"])
    if lowest["epoch"] < last["epoch"] and last["val_loss"] > 1.1 * lowest["val_loss"]:
        sentences.append(
            f"Validation loss was lowest at epoch {lowest['epoch']} and has risen by"
            f" {page.percent(last['val_loss'] / lowest['val_loss'] - 1, 0)} since: it overfits."
        )
    if numbers.matrix is not None and (found := confusions(numbers.matrix, record.labels)):
        first = found[0]
        sentences.append(
            f"The commonest confusion: {first['is']} taken for {first['taken_for']},"
            f" {first['count']} times ({page.percent(first['share'], 0)} of its photos)."
        )
    if numbers.halving is not None:
        sentences.append(_threshold(numbers.halving, record.path))
    return sentences


def _thresholds(numbers: RunNumbers) -> list[Answered]:
    """Return about ten thresholds for a table: the tenths, and the one that is advised."""
    points = numbers.answered
    tenths = [[p for p in points if p.threshold >= tenth / 10][:1] for tenth in range(10)]
    shown = [point for found in tenths for point in found]
    if numbers.halving is not None:
        shown.append(numbers.halving)
    return sorted(dict.fromkeys(shown), key=lambda point: point.threshold)


def _threshold(found: Answered, run: Path) -> str:
    return (
        f"Where its confidence is {found.threshold:.2f} or more, it answers"
        f" {page.percent(found.coverage, 0)} of the validation photos,"
        f" {page.percent(found.accuracy, 0)} of them rightly (95 %: {page.span(found.interval)})."
        f" 'hansang release {run} --min-confidence {found.threshold:.2f}' marks the others as not"
        " sure."
    )


def _points(found: Convergence | None) -> list[int | None]:
    if found is None:
        return [None] * len(DEFINITIONS)
    return [found.knee, found.settled, found.converged, found.budget]


def _calibrated_ece(record: RunRecord) -> float | None:
    if record.val is None or record.temperature is None:
        return None
    return metrics.reliability(record.val.calibrated(record.temperature)).ece


def stages(record: RunRecord) -> list[tuple[str, float | None, str]]:
    """Return (stage, seconds in all, remark) of a run, for the stages that its metrics have."""

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
    """Return the seconds of training of an old run, which recorded photos a second only."""
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
    """Return the command that trains the same run: its recipe, and the settings that differ."""
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
