"""The figures of a data sheet."""

from collections import Counter
from pathlib import Path

import numpy as np
from matplotlib.ticker import MaxNLocator

from training.datasheet.findings import Sheet
from training.pages.figures import BLUE, GREEN, INK, ORANGE, PURPLE, RED, PageFigure, axes, save

_NAMED = 60
_COLOURS = {"train": BLUE, "val": ORANGE, "test": GREEN, "all": PURPLE}


def counts(sheet: Sheet, folder: Path) -> PageFigure:
    """Draw photos per class and split, the largest class first."""
    found, labels = sheet.counts(), list(sheet.folder.labels)
    totals = {label: sum(of[label] for of in found.values()) for label in labels}
    labels.sort(key=lambda label: (-totals[label], label))
    rows = np.arange(len(labels))
    named = len(labels) <= _NAMED
    height = max(2.2, 0.9 + 0.2 * len(labels)) if named else 3.4
    with axes(height_in=height) as (figure, (axis,)):
        before = np.zeros(len(labels))
        for split, of in found.items():
            values = np.array([of[label] for label in labels])
            if named:
                axis.barh(
                    rows, values, left=before, color=_COLOURS[split], label=split, height=0.72
                )
            else:
                # So many classes are a landscape: no gaps, no names.
                axis.fill_between(
                    rows,
                    before,
                    before + values,
                    color=_COLOURS[split],
                    label=split,
                    step="mid",
                    lw=0,
                )
            before += values
        if named:
            axis.set_yticks(rows, labels, fontsize=8.5)
            for tick in axis.get_yticklabels():
                tick.set_color(INK)
            axis.invert_yaxis()
            axis.set_ylim(len(labels) - 0.4, -0.6)
            axis.set_xlabel("photos")
            axis.grid(visible=False, axis="y")
        else:
            axis.set_xlabel("classes, the largest first")
            axis.set_ylabel("photos")
            axis.set_xlim(0, len(labels) - 1)
        axis.legend(loc="lower right" if named else "upper right")
        return save(
            figure, folder, "counts", title="Photos per class and split",
            alt=f"The largest class is {labels[0]} with {totals[labels[0]]} photos, the smallest"
            f" {labels[-1]} with {totals[labels[-1]]}.",
        )  # fmt: skip


def sizes(sheet: Sheet, folder: Path) -> PageFigure:
    """Draw width against height, a dot for each size, as large as it is frequent."""
    found = Counter((seen.width, seen.height) for seen in sheet.looks if seen is not None)
    width, height = np.array(list(found)).T
    number = np.array(list(found.values()))
    with axes(height_in=4.2) as (figure, (axis,)):
        area = 14 + 260 * number / number.max()
        axis.scatter(width, height, s=area, color=BLUE, alpha=0.45, lw=0)
        limit = max(width.max(), height.max()) * 1.08
        axis.plot([0, limit], [0, limit], color=RED, lw=1, ls="--", label="square")
        axis.set_xlim(0, limit)
        axis.set_ylim(0, limit)
        axis.set_aspect("equal")
        for ticks in (axis.xaxis, axis.yaxis):
            ticks.set_major_locator(MaxNLocator(6, integer=True))
        axis.set_xlabel("width in pixels")
        axis.set_ylabel("height in pixels")
        axis.legend(loc="upper left")
        (commonest, times), *_ = found.most_common(1)
        return save(
            figure, folder, "sizes", title="Sizes",
            alt=f"{len(found)} different sizes; the commonest is {commonest[0]} x {commonest[1]}"
            f" ({times} photos). Widths run from {width.min()} to {width.max()}, heights from"
            f" {height.min()} to {height.max()} pixels.",
        )  # fmt: skip
