"""`hansang evaluate`: how well a model does on any folder of photos."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.serve import Repository
from terminal import print_json, print_table, progress, say
from training.cli.options import Group, Json

if TYPE_CHECKING:
    from flows.local.evaluate import Evaluated
    from training.reports.compare import Delta

Source = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="A run directory, an ONNX file, or a released MODEL[:VERSION]."
    ),
]
Photos = Annotated[Path, typer.Argument(help="Class folders, splits of them, or a table.")]
_MOST = 5


def evaluate(
    model: Source,
    data: Photos,
    group: Group = "",
    compare: Annotated[
        str | None, typer.Option(metavar="OTHER", help="Another model, on the same photos.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("evaluation.html"),
    repository: Repository = Path("models"),
    as_json: Json = False,
) -> None:
    """Measure a model on a folder: accuracy, recall by class, calibration, confusions.

    Its answers are those that it would serve: the same pixels, the same file. Of a folder with
    splits the test photos are asked, without any those of val; of one without splits, all.
    Intervals count groups where photos share some (docs/guides/groups.md).

    Example: hansang evaluate food42 photos --compare runs/first
    """
    from flows.local.evaluate import compared, open_model
    from flows.local.evaluate import evaluate as measured
    from photo_folder.errors import FolderError
    from photo_folder.scan import scan
    from training.buckets.photos import fetched
    from training.errors import DataError

    try:
        found = scan(fetched(data), group=group)
    except FolderError as error:
        raise DataError(str(error)) from error
    for line in (*found.left_out.lines(), *found.notes):
        say(line)
    with progress("evaluate") as report:
        results = [
            measured(*open_model(source, repository), found, report)
            for source in (model, *([compare] if compare else []))
        ]
    delta = compared(results[1], results[0]) if compare else None
    _write_page(results, delta, out)
    first = results[0].to_dict()
    if as_json:
        other = {"compare": {**results[1].to_dict(), "difference": asdict(delta)}} if delta else {}
        print_json(json.loads(json.dumps({**first, **other, "page": str(out)})))
        return
    _print(results, delta)
    say(f"page: {out}")


def _print(results: "list[Evaluated]", delta: "Delta | None") -> None:
    from training.evaluation.intervals import over
    from training.pages.page import percent, points, points_span, span

    def with_interval(of: dict[str, Any], name: str) -> str:
        return f"{percent(of[name])} ({span(of[f'{name}_interval'])})"

    rows: list[list[object]] = []
    found = [result.to_dict() for result in results]
    for name, show in (
        ("photos", lambda of: of["photos"]),
        ("top-1", lambda of: with_interval(of, "top1")),
        ("95 % intervals", lambda of: of["intervals"]),
        ("macro recall", lambda of: with_interval(of, "macro_recall")),
        ("macro F1", lambda of: with_interval(of, "macro_f1")),
        ("calibration error", lambda of: f"{of['ece']:.3f}"),
        ("left out", lambda of: len(of["left_out"])),
    ):
        rows.append([name, *map(show, found)])
    if delta is not None and delta.value is not None:
        shown = f"{points(delta.value)} points ({points_span(delta.interval)})"
        rows.append([f"gain over the other, paired {over(delta.groups)}", shown, ""])
    title = f"{results[0].split} photos"
    print_table(title, ["what", *(result.name for result in results)], rows)
    for row in found[0]["confusions"][:_MOST]:
        say(f"{row['is']} taken for {row['taken_for']}: {row['count']} ({row['share']:.0%})")


def _write_page(results: "list[Evaluated]", delta: "Delta | None", out: Path) -> None:
    from training.evaluation import metrics
    from training.pages import page
    from training.reports import plots

    first = results[0]
    folder = out.parent / f"{out.stem}-plots"
    folder.mkdir(parents=True, exist_ok=True)
    classes = metrics.per_class(
        first.matrix(), metrics.designs_of(first.predictions, len(first.labels))
    )
    figures = [
        plots.weakest(classes, first.labels, folder),
        plots.confusion_matrix(first.matrix(), first.labels, folder),
        plots.reliability(metrics.reliability(first.predictions), folder),
    ]
    context: dict[str, Any] = {
        "results": [result.to_dict() for result in results],
        "figures": figures,
        "delta": delta,
        "dense": len(first.labels) > 20,
    }
    page.write("evaluation.html.j2", out, context)
