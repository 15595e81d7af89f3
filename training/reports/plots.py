"""The figures of a run's report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.ticker import MaxNLocator, PercentFormatter

from training.evaluation.convergence import Convergence
from training.evaluation.metrics import Ints, PerClass, Reliability, cluster_order
from training.evaluation.selective import Answered
from training.pages.figures import (
    BLUE,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    PAPER,
    PURPLE,
    RED,
    TEAL,
    PageFigure,
    axes,
    log_scale,
    save,
)  # fmt: skip

History = Sequence[Mapping[str, Any]]
_NAMED = 60
"""The most classes that can be named along an axis."""
_NUMBERED = 16
"""The most classes that leave room for a number in each cell."""
_DRAWN = 200
"""The most classes of a confusion matrix that a person can look at."""
_WEAKEST = 15
_STEEP = 30
"""Losses that are further apart than this factor are drawn on a logarithmic axis."""


def loss(history: History, best_epoch: int, folder: Path) -> PageFigure:
    """Draw training and validation loss, with the learning rate below."""
    epochs = [epoch["epoch"] for epoch in history]
    with axes(height_in=3.9, rows=(3, 1)) as (figure, (top, bottom)):
        top.plot(epochs, [e["train_loss"] for e in history], color=ORANGE, label="training")
        val = [e["val_loss"] for e in history]
        top.plot(epochs, val, color=BLUE, label="validation")
        index = epochs.index(best_epoch)
        top.plot(best_epoch, val[index], "o", color=BLUE, label=f"best epoch ({best_epoch})")
        top.set_ylabel("loss")
        if max(val) > _STEEP * min(val):
            log_scale(top)
        top.legend()
        bottom.plot(epochs, [e["learning_rate"] for e in history], color=MUTED)
        bottom.set_ylabel("rate")
        bottom.set_ylim(bottom=0)
        _epochs_axis(bottom, epochs)
        lowest = min(val)
        return save(
            figure, folder, "loss", title="Loss, and the learning rate",
            alt=f"Training loss falls from {history[0]['train_loss']:.2f} to"
            f" {history[-1]['train_loss']:.2f}, validation loss from {val[0]:.2f} to {val[-1]:.2f};"
            f" its lowest is {lowest:.2f} at epoch {epochs[val.index(lowest)]}.",
        )  # fmt: skip


def accuracy(
    history: History, best_epoch: int, found: Convergence | None, folder: Path
) -> PageFigure:
    """Draw validation accuracy, and mark where its growth slows, settles and ends."""
    epochs = [epoch["epoch"] for epoch in history]
    top1 = [epoch["val_top1"] for epoch in history]
    said = []
    with axes(height_in=3.9) as (figure, (axis,)):
        if found is not None:
            low, high = found.level - found.tolerance, found.level + found.tolerance
            axis.axhspan(low, high, color=GREEN, alpha=0.14, lw=0)
            axis.plot(epochs, found.trend, color=MUTED, lw=1.2, ls="--", label="rising trend t")
        axis.plot(epochs, top1, color=BLUE, label="validation top-1")
        best = top1[epochs.index(best_epoch)]
        axis.plot(best_epoch, best, "o", color=BLUE, label=f"best epoch ({best_epoch})")
        marks = [] if found is None else [
            ("growth slows", found.knee, ORANGE),
            ("settles", found.settled, PURPLE),
            ("converges", found.converged, GREEN),
        ]  # fmt: skip
        bottom, top = axis.get_ylim()
        axis.set_ylim(bottom, top)
        for row, (name, epoch, colour) in enumerate(marks):
            if epoch is None:
                continue
            said.append(f"{name} at epoch {epoch}")
            axis.axvline(epoch, color=colour, lw=1.4)
            # Low, where a rising curve leaves room, and staggered.
            right = epoch > (epochs[0] + epochs[-1]) * 0.6
            axis.annotate(
                f"{name}: {epoch}", (epoch, bottom + (0.27 - 0.09 * row) * (top - bottom)),
                xytext=(-4 if right else 4, 0), textcoords="offset points",
                ha="right" if right else "left", color=colour, fontsize=9,
                bbox={"facecolor": PAPER, "edgecolor": "none", "alpha": 0.85, "pad": 1.5},
            )  # fmt: skip
        axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axis.set_ylabel("validation top-1")
        axis.legend(loc="lower right" if not marks else "best")
        _epochs_axis(axis, epochs)
        return save(
            figure, folder, "accuracy", title="Validation accuracy, and where it converges",
            alt=f"Validation top-1 goes from {top1[0]:.1%} to {top1[-1]:.1%}; its best is"
            f" {best:.1%} at epoch {best_epoch}. "
            + (f"Marked: {', '.join(said)}." if said else "Nothing is marked on it."),
        )  # fmt: skip


def confusion_matrix(matrix: Ints, labels: Sequence[str], folder: Path) -> PageFigure:
    """Draw shares of each true class, the classes in an order that puts confusions together.

    Of more classes than there is room for, those that are confused most are drawn.
    """
    support = matrix.sum(1)
    wrong = support + matrix.sum(0) - 2 * matrix.diagonal()
    shown = np.sort(np.argsort(-wrong, kind="stable")[:_DRAWN])
    order = shown[cluster_order(matrix[np.ix_(shown, shown)])]
    classes = len(order)
    shares = matrix[np.ix_(order, order)] / np.maximum(support[order, None], 1)
    names = [labels[index] for index in order]
    side = min(max(4.6, 2.2 + 0.17 * classes), 10.5)
    with axes(side, side * 0.97) as (figure, (axis,)):
        axis.grid(visible=False)
        # Transparent where nothing was confused, so that the figure follows the page's theme.
        cells = np.zeros((classes, classes, 4))
        cells[..., :3] = to_rgb(ORANGE)
        cells[np.eye(classes, dtype=bool), :3] = to_rgb(BLUE)
        cells[..., 3] = np.sqrt(shares)
        axis.imshow(cells, interpolation="nearest", aspect="equal")
        if classes <= _NAMED:
            size = 9 if classes <= _NUMBERED else 6.5
            axis.set_xticks(range(classes), names, rotation=90, fontsize=size)
            axis.set_yticks(range(classes), names, fontsize=size)
        if classes <= _NUMBERED:
            for row, column in zip(*np.nonzero(shares), strict=True):
                count = matrix[order[row], order[column]]
                axis.text(column, row, count, ha="center", va="center", fontsize=8, color=INK)
        axis.tick_params(length=0)
        axis.set_xlabel("taken for")
        axis.set_ylabel("is")
        right = matrix.trace() / max(matrix.sum(), 1)
        return save(
            figure, folder, "confusion", title="Confusion matrix", wide=True,
            alt=f"Confusion matrix of {_of(classes, len(labels))} classes; {right:.1%} of"
            f" {matrix.sum()} photos lie on its diagonal. The table of confusions lists its largest"
            " other cells.",
        )  # fmt: skip


def _of(shown: int, all_: int) -> str:
    return str(all_) if shown == all_ else f"the {shown} most confused of {all_}"


def weakest(found: PerClass, labels: Sequence[str], folder: Path) -> PageFigure:
    """Draw recall and its interval of the classes that are recognised least."""
    recall = found.recall
    order = [i for i in np.argsort(recall.value, kind="stable") if found.support[i]][:_WEAKEST]
    names = [f"{labels[i]} ({found.support[i]})" for i in order]
    with axes(height_in=max(2.2, 0.9 + 0.24 * len(order))) as (figure, (axis,)):
        rows = np.arange(len(order))
        value = recall.value[order]
        axis.hlines(rows, recall.low[order], recall.high[order], color=BLUE, lw=2.4, alpha=0.45)
        axis.plot(value, rows, "o", color=BLUE, ms=5)
        axis.set_yticks(rows, names, fontsize=9)
        for label in axis.get_yticklabels():
            label.set_color(INK)
        axis.invert_yaxis()
        axis.set_xlim(0, 1)
        axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axis.set_xlabel("recall, with its 95 % interval")
        axis.grid(visible=False, axis="y")
        worst = order[0]
        return save(
            figure, folder, "weakest",
            title="Every class" if len(order) == len(labels) else "The weakest classes",
            alt=f"Recall of {len(order)} classes with intervals; the lowest is {labels[worst]}"
            f" with {recall.value[worst]:.0%} of {found.support[worst]} photos.",
        )  # fmt: skip


def reliability(found: Reliability, folder: Path, *, calibrated: bool = False) -> PageFigure:
    """Draw accuracy against confidence, and below it the number of photos in each bin."""
    some = found.count > 0
    centre, width = (found.edges[1:] + found.edges[:-1]) / 2, np.diff(found.edges)
    with axes(height_in=3.9, rows=(3, 1)) as (figure, (top, bottom)):
        top.plot([0, 1], [0, 1], color=MUTED, lw=1.2, ls="--", label="as sure as it is right")
        top.vlines(
            found.confidence[some],
            found.low[some],
            found.high[some],
            color=BLUE,
            lw=2.4,
            alpha=0.45,
        )
        top.plot(found.confidence[some], found.accuracy[some], "o-", color=BLUE, ms=4, lw=1)
        top.set_ylabel("share that is right")
        top.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        top.set_ylim(0, 1)
        top.legend()
        bottom.bar(centre, found.count, width * 0.9, color=MUTED)
        bottom.set_ylabel("photos")
        bottom.set_xlabel("confidence")
        bottom.set_xlim(0, 1)
        bottom.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        right = np.average(found.accuracy[some], weights=found.count[some])
        sure = np.average(found.confidence[some], weights=found.count[some])
        lean = "less sure than it is right" if sure < right else "surer than it is right"
        return save(
            figure, folder, "reliability-calibrated" if calibrated else "reliability",
            title="Reliability, calibrated" if calibrated else "Reliability",
            alt=f"Mean confidence is {sure:.1%} and {right:.1%} of the photos are right: the model"
            f" is {lean}. Expected calibration error {found.ece:.3f}.",
        )  # fmt: skip


def coverage(points: Sequence[Answered], marked: Answered | None, folder: Path) -> PageFigure:
    """Draw accuracy against the share of photos that are answered, with its interval."""
    shares = [point.coverage for point in points]
    low, high = zip(*(point.interval for point in points), strict=True)
    said = "No threshold halves the share of wrong answers."
    with axes(height_in=3.9) as (figure, (axis,)):
        axis.fill_between(shares, low, high, color=BLUE, alpha=0.14, lw=0, label="95 % interval")
        axis.plot(shares, [point.accuracy for point in points], "-", color=BLUE, label="accuracy")
        if marked is not None:
            at = (marked.coverage, marked.accuracy)
            axis.plot(*at, "o", color=ORANGE, label=f"confidence {marked.threshold:.2f} or more")
            said = (
                f"At a confidence of {marked.threshold:.2f} or more {marked.coverage:.0%} are"
                f" answered, {marked.accuracy:.0%} of them rightly: half as many wrong answers."
            )
        axis.set_xlabel("photos that are answered")
        axis.set_ylabel("of these, right")
        for side in (axis.xaxis, axis.yaxis):
            side.set_major_formatter(PercentFormatter(1, decimals=0))
        axis.set_xlim(0, 1.02)
        axis.set_ylim(top=1.01)
        axis.legend(loc="lower left")
        return save(
            figure, folder, "coverage", title="Accuracy against coverage",
            alt=f"Of all photos {points[0].accuracy:.1%} are answered rightly. {said}",
        )  # fmt: skip


def speed(history: History, folder: Path) -> PageFigure:
    """Draw photos trained a second, and below it the seconds of each stage, if they are known."""
    epochs = [epoch["epoch"] for epoch in history]
    rates = [epoch["photos_per_s"] for epoch in history]
    stages = [
        (label, [e.get(key, 0.0) for e in history], colour)
        for label, key, colour in (
            ("training", "train_s", BLUE),
            ("waiting for data", "data_wait_s", RED),
            ("validation", "eval_s", TEAL),
            ("checkpoints", "save_s", ORANGE),
        )
        if any(key in e for e in history)
    ]
    with axes(rows=(1, 1) if stages else (1,), height_in=3.9 if stages else 2.6) as (figure, all_):
        all_[0].plot(epochs, rates, color=BLUE)
        all_[0].set_ylabel("photos/s")
        all_[0].set_ylim(0, max(rates) * 1.1)
        if stages:
            below = np.zeros(len(epochs))
            for label, values, colour in stages:
                # The seconds of training include waiting for data.
                if label == "training":
                    values = [
                        v - e.get("data_wait_s", 0.0) for v, e in zip(values, history, strict=True)
                    ]
                all_[1].bar(epochs, values, bottom=below, color=colour, label=label, width=0.8)
                below += values
            all_[1].set_ylabel("seconds")
            all_[1].legend(ncols=4, loc="lower left", bbox_to_anchor=(0, 1))
        _epochs_axis(all_[-1], epochs)
        return save(
            figure, folder, "speed", title="Throughput",
            alt=f"Photos trained a second: median {np.median(rates):.0f}, from {min(rates):.0f} to"
            f" {max(rates):.0f}.",
        )  # fmt: skip


def _epochs_axis(axis: Axes, epochs: Sequence[int]) -> None:
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("epoch")
    if len(epochs) > 1:
        axis.set_xlim(epochs[0] - 0.02 * len(epochs), epochs[-1] + 0.02 * len(epochs))
