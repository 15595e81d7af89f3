"""The figures of a search."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator, PercentFormatter

from training.pages.figures import BLUE, GREEN, INK, MUTED, ORANGE, PageFigure, axes, save
from training.tuning.search import Outcome


def history(found: Sequence[Outcome], folder: Path) -> PageFigure:
    """Draw the top-1 of each trial by number, and the best so far."""
    by_number = sorted(found, key=lambda one: one.number)
    complete = [one for one in by_number if one.state == "complete"]
    pruned = [one for one in by_number if one.state == "pruned" and one.value is not None]
    best, so_far = 0.0, []
    for one in complete:
        best = max(best, one.value or 0.0)
        so_far.append(best)
    with axes() as (figure, (axis,)):
        numbers = [one.number for one in complete]
        last = by_number[-1].number
        axis.plot([*numbers, last], [*so_far, best], color=BLUE, drawstyle="steps-post",
                  label="best so far")  # fmt: skip
        axis.plot(
            numbers, [one.value or 0.0 for one in complete], "o", color=BLUE, ms=5, label="complete"
        )
        axis.plot([one.number for one in pruned], [one.value or 0.0 for one in pruned], "x",
                  color=ORANGE, ms=5, label="pruned (annealed preview)")  # fmt: skip
        for one in complete:
            if one.recipe:
                axis.annotate(one.recipe, (one.number, one.value or 0.0), fontsize=8, color=MUTED,
                              xytext=(4, -9), textcoords="offset points")  # fmt: skip
        axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_xlabel("trial")
        axis.set_ylabel("validation top-1")
        axis.legend()
        return save(figure, folder, "history", title="History",
                    alt=f"{len(complete)} trials were trained to their end, the best to {best:.1%};"
                    f" {len(pruned)} were pruned.")  # fmt: skip


def curves(
    found: Sequence[Outcome], lines: Mapping[int, Sequence[float]], folder: Path
) -> PageFigure:
    """Draw validation top-1 by epoch, a line for each trial, pruned and complete ones."""
    first = next((one.number for one in found if one.state == "complete"), None)
    with axes() as (figure, (axis,)):
        labelled = set()
        for one in sorted(found, key=lambda one: one.state == "complete"):
            line = lines.get(one.number, ())
            if not line:
                continue
            kind = "the best" if one.number == first else one.state
            colour = {"the best": GREEN, "complete": BLUE}.get(kind, ORANGE)
            axis.plot(
                range(1, len(line) + 1), line, color=colour,
                alpha=1 if kind == "the best" else 0.55,
                lw=2.2 if kind == "the best" else 1.2, label=None if kind in labelled else kind,
            )  # fmt: skip
            labelled.add(kind)
        axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_xlabel("epoch")
        axis.set_ylabel("validation top-1")
        axis.legend()
        ended = sum(one.state == "pruned" for one in found)
        return save(figure, folder, "curves", title="Pruned against complete",
                    alt=f"A line a trial; {ended} of {len(found)} end early.")  # fmt: skip


def parallel(found: Sequence[Outcome], folder: Path) -> PageFigure:
    """Draw each trial as a line through its settings; the colour shows its top-1."""
    from matplotlib import colormaps
    from matplotlib.colors import Normalize

    shown = [one for one in found if one.value is not None]
    settings: list[str] = []
    for one in shown:
        settings += [_setting(name) for name in one.params if _setting(name) not in settings]
    columns = [_column([_value(one, setting) for one in shown]) for setting in settings]
    values = np.array([one.value or 0.0 for one in shown])
    scale = Normalize(float(values.min()), max(float(values.max()), float(values.min()) + 1e-9))
    colours = colormaps["viridis"]
    width = max(5.2, 0.95 * (len(settings) + 1))
    with axes(width_in=width, height_in=3.9) as (figure, (axis,)):
        for row in np.argsort(values):
            heights = [places[row] for places, _ in columns] + [float(scale(values[row]))]
            at = [i for i, height in enumerate(heights) if height is not None]
            axis.plot(at, [heights[i] for i in at],
                      color=colours(0.95 - 0.85 * float(scale(values[row]))),
                      lw=1.3, alpha=0.75)  # fmt: skip
        for index, (_, ticks) in enumerate(columns):
            axis.axvline(index, color=MUTED, lw=0.8)
            for height, text in ticks:
                axis.annotate(text, (index, height), fontsize=7, color=INK, xytext=(3, -2),
                              textcoords="offset points")  # fmt: skip
        for height, share in ((0.0, values.min()), (1.0, values.max())):
            axis.annotate(f"{share:.0%}", (len(settings), height), fontsize=7, color=INK,
                          xytext=(3, -2), textcoords="offset points")  # fmt: skip
        axis.axvline(len(settings), color=MUTED, lw=0.8)
        names = [*(setting.replace(".", ".\n") for setting in settings), "top-1"]
        axis.set_xticks(range(len(names)), names, fontsize=7)
        axis.set_yticks([])
        axis.set_xlim(-0.2, len(settings) + 0.6)
        axis.grid(visible=False)
        axis.spines["left"].set_visible(False)
        return save(figure, folder, "parallel", title="What was tried, and what it reached",
                    alt=f"{len(shown)} trials as lines through {len(settings)} settings; the darker"
                    " a line, the better its trial.", wide=True)  # fmt: skip


def importances(found: Mapping[str, float], folder: Path) -> PageFigure:
    """Draw the importance of each setting."""
    names = sorted(found, key=lambda name: found[name])
    with axes(height_in=max(2.0, 0.8 + 0.28 * len(names))) as (figure, (axis,)):
        axis.barh(range(len(names)), [found[name] for name in names], color=BLUE, height=0.6)
        axis.set_yticks(range(len(names)), [_setting(name) for name in names], fontsize=9)
        axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axis.set_xlabel("share of importance")
        axis.grid(visible=False, axis="y")
        first = names[-1]
        return save(figure, folder, "importances", title="What mattered",
                    alt=f"Most: {_setting(first)}, {found[first]:.0%}.")  # fmt: skip


def _setting(name: str) -> str:
    return name.partition("@")[0]


def _value(one: Outcome, setting: str) -> object:
    return next((v for name, v in one.params.items() if _setting(name) == setting), None)


def _column(
    values: Sequence[Any],
) -> tuple[list[float | None], list[tuple[float, str]]]:
    """Return the height of each value, 0 to 1 or None, and the heights that get a label."""
    known = [v for v in values if v is not None]
    if any(isinstance(v, str | bool) for v in known) or len(set(known)) <= 3:
        different = sorted(set(known), key=lambda v: (isinstance(v, str), v))
        height = {v: i / max(len(different) - 1, 1) for i, v in enumerate(different)}
        return [None if v is None else height[v] for v in values], [
            (height[v], f"{v:.2g}" if isinstance(v, float) else str(v)) for v in different
        ]
    numbers = [float(str(v)) for v in known]
    low, high = min(numbers), max(numbers)
    log = low > 0 and high > 20 * low

    def place(number: float) -> float:
        if log:
            return float(np.log(number / low) / np.log(high / low))
        return (number - low) / (high - low)

    heights = [None if v is None else place(float(str(v))) for v in values]
    return heights, [(0.0, f"{low:.2g}"), (1.0, f"{high:.2g}")]
