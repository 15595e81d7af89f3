"""`hansang report` and `hansang compare`: pages about runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from terminal import print_json, print_table, say
from training.cli.options import Json

if TYPE_CHECKING:
    from training.reports.compare import Comparison
    from training.reports.run_numbers import RunNumbers
    from training.runs.run_record import RunRecord


def report(
    run: Annotated[Path, typer.Argument(help="The run directory, e.g. runs/first, or s3://…")],
    photos: Annotated[
        Path | None,
        typer.Option(help="The folder of photos, for showing mistakes once the cache is gone."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write RUN/report.html: curves, convergence, confusions, classes, mistakes, calibration.

    For the folder of a study it writes the search's report (set HANSANG_STORAGE if it has one).

    It is made from the files of the run, without training, and works on a run under way, too. The
    page needs nothing beside it; its figures also lie in RUN/plots as PNG and SVG.

    Example: hansang report runs/first
    """
    from training.buckets import mirror
    from training.reports.report import write_report
    from training.reports.run_numbers import numbers_of
    from training.runs.run_record import RunRecord

    run = mirror.pull(run)
    if (run / "study.json").is_file():
        _report_study(run, as_json)
        return
    out = write_report(run, photos)
    record = RunRecord.open(run)
    numbers = numbers_of(record)
    if as_json:
        print_json({"report": str(out), **numbers.to_dict(record.labels)})
        return
    _print_report(record, numbers)
    say(f"report: {out}")


def _report_study(folder: Path, as_json: bool) -> None:
    import json
    import os

    from training.tuning.study_report import write_from

    out = write_from(folder, os.environ.get("HANSANG_STORAGE"))
    if as_json:
        print_json({"report": str(out), **json.loads((folder / "ranking.json").read_text("utf-8"))})
    say(f"report: {out}")


def _print_report(record: "RunRecord", numbers: "RunNumbers") -> None:
    from training.evaluation.intervals import method
    from training.pages.page import percent, span

    best = record.best
    rows: list[list[object]] = [
        ["best validation top-1", f"{percent(best['val_top1'])} (epoch {best['epoch']})"]
    ]
    for split, found in numbers.scores.items():
        how = f"{span(found.top1_interval)}, {method(found.groups)}"
        rows.append([f"{split} top-1", f"{percent(found.top1)} ({how})"])
        rows.append([f"{split} macro F1", f"{percent(found.macro_f1)}"])
    if numbers.convergence is not None:
        for name, epoch in (
            ("growth slows", numbers.convergence.knee),
            ("swing settles", numbers.convergence.settled),
            ("converges", numbers.convergence.converged),
            ("budget for tuning", numbers.convergence.budget),
        ):
            rows.append([name, "not yet" if epoch is None else f"epoch {epoch}"])
    print_table(f"Run {record.name}", ["what", "value"], rows)


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Two run directories or more, also s3://…")],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("compare.html"),
    as_json: Json = False,
) -> None:
    """Compare runs: their curves, settings and results, and recall class by class.

    Each is compared with the first. Where runs share their validation photos, the differences are
    paired: photos count that one run gets right and the other wrong.

    Example: hansang compare runs/first runs/second
    """
    from training.buckets import mirror
    from training.reports.compare import compare as compare_runs
    from training.reports.compare_page import write

    comparison = compare_runs([mirror.pull(run) for run in runs])
    write(comparison, out)
    if as_json:
        print_json({"page": str(out), **comparison.to_dict()})
        return
    _print_comparison(comparison)
    say(f"page: {out}")


def _print_comparison(comparison: "Comparison") -> None:
    from training.evaluation.intervals import over
    from training.pages.page import percent, points, points_span

    rows: list[list[object]] = []
    for name, record, delta in zip(
        comparison.names, comparison.records, comparison.deltas, strict=True
    ):
        shown = "the first" if delta is None else "no shared predictions"
        if delta is not None and delta.value is not None:
            shown = (f"{points(delta.value)} ({points_span(delta.interval)},"
                     f" {over(delta.groups)})")  # fmt: skip
        rows.append([name, percent(record.best["val_top1"]), record.best["epoch"], shown])
    columns = ["run", "val top-1", "best epoch", "difference in points (95 %)"]
    print_table("Runs", columns, rows)
    settings = [[name, *values] for name, values in comparison.settings]
    if settings:
        print_table("Settings that differ", ["setting", *comparison.names], settings)
