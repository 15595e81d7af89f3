"""The figures of a study of arms."""

from pathlib import Path

from matplotlib.ticker import PercentFormatter, StrMethodFormatter

from training.ablation.learning_curve import MORE, LearningCurve
from training.ablation.result import AblationResult
from training.pages.figures import MUTED, SERIES, PageFigure, axes, save

_MOST_CLASSES = 12
"""Classes shown at each end, those that lose most and those that gain most."""


def top1(result: AblationResult, folder: Path) -> PageFigure:
    """Draw what each arm reached, with its interval over seeds."""
    with axes(height_in=max(2.0, 0.9 + 0.45 * len(result.arms))) as (figure, (axis,)):
        for row, arm in enumerate(result.arms):
            low, high = arm.val_top1 - arm.half_interval, arm.val_top1 + arm.half_interval
            colour = SERIES[row % len(SERIES)]
            axis.hlines(row, low, high, color=colour, lw=2.4, alpha=0.45)
            axis.plot(arm.val_top1, row, "o", color=colour, ms=6)
        axis.set_yticks(range(len(result.arms)), [arm.name for arm in result.arms])
        axis.invert_yaxis()
        axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axis.set_xlabel("validation top-1, mean of seeds and its 95 % interval")
        axis.grid(visible=False, axis="y")
        alt = "; ".join(f"{arm.name} {arm.val_top1:.1%}" for arm in result.arms) + "."
        return save(figure, folder, "arms", title=result.title, alt=alt)


def curve(found: LearningCurve, folder: Path) -> PageFigure:
    """Draw accuracy against photos a class, and what twice of them would bring."""
    with axes() as (figure, (axis,)):
        axis.plot(found.photos, found.top1, "o", color=SERIES[0], label="measured")
        twice = found.fitted[-1] + found.doubled[0]
        axis.plot([*found.photos, 2 * found.photos[-1]], [*found.fitted, twice], "--",
                  color=SERIES[1], label="curve, to twice the photos")  # fmt: skip
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
        axis.set_xticks([round(count) for count in found.photos])
        axis.minorticks_off()
        axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axis.set_xlabel("photos a class to learn from, mean")
        axis.set_ylabel("validation top-1")
        axis.legend()
        points = zip(found.photos, found.top1, strict=True)
        alt = "; ".join(f"{count:.0f} photos {top1:.1%}" for count, top1 in points)
        return save(figure, folder, "curve", title="What photos bring", alt=f"{alt}.")


def worth(found: LearningCurve, folder: Path) -> PageFigure:
    """Draw the classes that more photos would help most, with their intervals."""
    rows = found.classes[:_MOST_CLASSES]
    with axes(height_in=max(2.2, 0.9 + 0.3 * len(rows))) as (figure, (axis,)):
        for row, each in enumerate(rows):
            axis.hlines(row, each.low, each.high, color=SERIES[0], lw=2.4, alpha=0.45)
            axis.plot(each.gain, row, "o", color=SERIES[0], ms=6)
        axis.axvline(0, color=MUTED, lw=1)
        axis.set_yticks(range(len(rows)), [each.label for each in rows], fontsize=9)
        axis.invert_yaxis()
        axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=2, symbol=""))
        axis.set_xlabel(f"points of accuracy by {MORE} more photos of the class, and 95 %")
        return save(
            figure, folder, "worth", title="Which photos would pay most",
            alt=f"{MORE} more photos of {rows[0].label} would bring {rows[0].gain:+.2%}.",
        )  # fmt: skip


def class_changes(result: AblationResult, folder: Path) -> PageFigure:
    """Draw the classes whose recall changes most, an arm a mark."""
    rows = result.classes
    if len(rows) > 2 * _MOST_CLASSES:
        rows = rows[:_MOST_CLASSES] + rows[-_MOST_CLASSES:]
    with axes(height_in=max(2.2, 0.9 + 0.24 * len(rows))) as (figure, (axis,)):
        for index, arm in enumerate(result.arms[1:], 1):
            axis.plot([row[2][index] for row in rows], range(len(rows)), "o", ms=5, alpha=0.8,
                      color=SERIES[index % len(SERIES)], label=arm.name)  # fmt: skip
        axis.axvline(0, color=MUTED, lw=1)
        axis.set_yticks(range(len(rows)), [row[0] for row in rows], fontsize=9)
        axis.invert_yaxis()
        axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=""))
        axis.set_xlabel(f"change of recall against {result.arms[0].name}, in points")
        axis.legend()
        last = result.arms[-1].name
        return save(
            figure, folder, "classes", title="Class by class",
            alt=f"With {last}, recall changes most for {rows[0][0]} ({rows[0][2][-1] * 100:+.0f}"
            f" points) and {rows[-1][0]} ({rows[-1][2][-1] * 100:+.0f} points).",
        )  # fmt: skip
