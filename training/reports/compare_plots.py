"""The figures of a comparison of runs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.ticker import MaxNLocator, PercentFormatter

from training.pages.figures import (
    BLUE,
    INK,
    MUTED,
    ORANGE,
    SERIES,
    PageFigure,
    axes,
    log_scale,
    save,
)
from training.reports.compare import Comparison
from training.runs.run_record import RunRecord

_MOST = 12
_DASHES = ("-", "--", ":", "-.")
_STEEP = 30


def curves(named: Sequence[tuple[str, RunRecord]], key: str, folder: Path) -> PageFigure:
    """Draw one figure of every epoch, a line a run."""
    title = {"val_top1": "Validation top-1", "val_loss": "Validation loss"}[key]
    with axes() as (figure, (axis,)):
        ends, values = [], []
        for index, (name, record) in enumerate(named):
            epochs = [epoch["epoch"] for epoch in record.history]
            line = [epoch[key] for epoch in record.history]
            values += line
            # Beyond six runs colours repeat; then the dashes tell them apart.
            axis.plot(
                epochs, line, color=SERIES[index % len(SERIES)], label=name,
                ls=_DASHES[index // len(SERIES) % len(_DASHES)],
            )  # fmt: skip
            ends.append(f"{name} ends at {line[-1]:.1%}" if key == "val_top1" else
                        f"{name} ends at {line[-1]:.2f}")  # fmt: skip
        if key == "val_top1":
            axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        elif max(values) > _STEEP * min(values):
            log_scale(axis)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_xlabel("epoch")
        axis.set_ylabel(title.lower())
        axis.legend()
        return save(figure, folder, key.replace("_", "-"), title=title, alt="; ".join(ends) + ".")


def class_deltas(comparison: Comparison, index: int, folder: Path) -> PageFigure:
    """Draw the classes whose recall fell and rose most from the first run to another."""
    found = [(label, deltas[index]) for label, _, deltas in comparison.classes]
    known = [(name, d) for name, d in found if d is not None and d.value is not None and d.interval]
    known.sort(key=lambda pair: pair[1].value or 0.0)
    shown = known if len(known) <= 2 * _MOST else known[:_MOST] + known[-_MOST:]
    rows = np.arange(len(shown))
    with axes(height_in=max(2.2, 0.9 + 0.24 * len(shown))) as (figure, (axis,)):
        for row, (_, delta) in zip(rows, shown, strict=True):
            low, high = delta.interval or (0.0, 0.0)
            colour = BLUE if (delta.value or 0.0) >= 0 else ORANGE
            axis.hlines(row, low, high, color=colour, lw=2.4, alpha=0.45)
            axis.plot(delta.value or 0.0, row, "o", color=colour, ms=5)
        axis.axvline(0, color=MUTED, lw=1)
        axis.set_yticks(rows, [label for label, _ in shown], fontsize=9)
        for tick in axis.get_yticklabels():
            tick.set_color(INK)
        axis.invert_yaxis()
        axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=""))
        axis.set_xlabel("change of recall in points, with its 95 % interval")
        axis.grid(visible=False, axis="y")
        first, name = comparison.names[0], comparison.names[index]
        return save(
            figure, folder, f"classes-{index}", title=f"{name} against {first}, class by class",
            alt=f"From {first} to {name}, recall changes most for {shown[0][0]}"
            f" ({(shown[0][1].value or 0) * 100:+.0f} points) and {shown[-1][0]}"
            f" ({(shown[-1][1].value or 0) * 100:+.0f} points).",
        )  # fmt: skip
