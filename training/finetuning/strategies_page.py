"""The page of a study: the four-way rule, the table, the curves, the classes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.ticker import PercentFormatter

from training.files import write_text
from training.finetuning.retention import Retention
from training.finetuning.similarity import Similarity
from training.finetuning.strategies import Strategies
from training.pages import page
from training.pages.figures import BLUE, GREEN, MUTED, PageFigure, axes, save
from training.reports import compare_plots
from training.runs.run_record import RunRecord


def write(
    folder: Path,
    source: str,
    study: Strategies,
    similarity: Similarity | None,
    kept: Retention | None,
) -> dict[str, Any]:
    """Write `finetune.json`, `report.html` and figures into a study; return what the JSON holds."""
    found = {
        "source": source,
        "similarity": similarity and similarity.to_dict(),
        **study.to_dict(),
        "retention": kept and kept.to_dict(),
        "report": str(folder / "report.html"),
    }
    write_text(folder / "finetune.json", json.dumps(found, ensure_ascii=False, indent=2))
    plots = folder / "plots"
    finals = [
        (row.strategy, RunRecord.open(Path(row.runs[0])))
        for row in study.rows
        if row.stage == "final"
    ]
    figures: list[PageFigure] = [
        _cost(study, plots),
        compare_plots.curves(finals, "val_top1", plots),
        compare_plots.curves(finals, "val_loss", plots),
    ]
    context = {
        "study": study, "similarity": similarity, "kept": kept, "figures": figures,
        "name": folder.resolve().name, "folder": plots,
        "others": [n for n, _ in study.classes[0][2]] if study.classes else [],
    }  # fmt: skip
    page.write("finetune.html.j2", folder / "report.html", context)
    return found


def _cost(study: Strategies, folder: Path) -> PageFigure:
    """Draw accuracy against seconds of training, a point with its interval for each strategy."""
    with axes() as (figure, (axis,)):
        for row in study.rows:
            low, high = row.interval
            colour = GREEN if row.recommended else BLUE if row.stage == "final" else MUTED
            x = max(row.time_s, 0.1)
            axis.vlines(x, low, high, color=colour, lw=2.4, alpha=0.45)
            axis.plot(x, row.val_top1, "o", color=colour, ms=5)
            axis.annotate(row.strategy, (x, row.val_top1), xytext=(5, 4), fontsize=9,
                          textcoords="offset points", color=colour)  # fmt: skip
        axis.set_xscale("log")
        axis.margins(x=0.2)
        axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axis.set_xlabel("seconds of training")
        axis.set_ylabel("validation top-1")
        return save(
            figure, folder, "cost", title="Accuracy and what it costs",
            alt="; ".join(_sentence(study)) + ".",
        )  # fmt: skip


def _sentence(study: Strategies) -> Sequence[str]:
    return [f"{row.strategy} {row.val_top1:.1%} in {row.time_s:.0f} s" for row in study.rows]
