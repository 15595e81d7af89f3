"""The page of a comparison of runs, and its figures."""

from pathlib import Path

from training.pages import page
from training.pages.figures import PageFigure
from training.reports import compare_plots
from training.reports.compare import Comparison


def write(comparison: Comparison, out: Path) -> None:
    """Write the page, and its figures as PNG and SVG into `<its name>-plots/` beside it."""
    folder = out.parent / f"{out.stem}-plots"
    out.parent.mkdir(parents=True, exist_ok=True)
    named = list(zip(comparison.names, comparison.records, strict=True))
    figures: list[PageFigure] = [
        compare_plots.curves(named, "val_top1", folder),
        compare_plots.curves(named, "val_loss", folder),
        *(
            compare_plots.class_deltas(comparison, index, folder)
            for index in range(1, len(named))
            if comparison.classes and any(d[2][index] for d in comparison.classes)
        ),
    ]
    runs = zip(comparison.names, comparison.records, comparison.numbers, comparison.deltas,
               strict=True)  # fmt: skip
    context = {"comparison": comparison, "figures": figures, "runs": list(runs), "folder": folder}
    page.write("compare.html.j2", out, context)
