"""The verbs that need both rooms: release, pipeline, demo."""

import logging
import os
import sys
import threading
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from flows.cli.release_table import print_release
from photo_folder.names import shell
from service.cli.serve import Repository
from storage import require_writable
from terminal import UserError, print_json, print_table, progress, say, settings
from training.cli.options import CacheDir, Group, Json, RunId, RunsDir
from training.cli.photos import look

if TYPE_CHECKING:
    from flows.local.demo import Outcome
    from flows.release_gate.candidate import Release

Model = Annotated[str, typer.Option(help="Name of the model in the repository.")]
Data = Annotated[
    Path,
    typer.Argument(help="train/ val/ (test/) of class folders, class folders alone, or s3://…"),
]
Epochs = Annotated[int | None, typer.Option(min=1, help="Epochs; the recipe's own if omitted.")]
ImageSize = Annotated[int, typer.Option(min=32, max=512, help="Side of the square, in pixels.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, e.g. optimizer.lr=0.02."),
]


Force = Annotated[
    str, typer.Option(metavar="REASON", help="Release it whatever the rules say; say why.")
]
Rule = Annotated[
    list[str] | None,
    typer.Option("--rule", metavar="KEY=VALUE", help="A rule, e.g. max_recall_drop=0.1."),
]

Precision = Annotated[
    Literal["fp32", "fp16", "int8", "auto"],
    typer.Option(help="Bits to serve it in; auto: the fastest here that answers the same."),
]
Review = Annotated[
    bool, typer.Option("--review", help="Also guess which labels are doubtful, and are new.")
]


def _between(value: float | None) -> float | None:
    # Written so that NaN fails.
    if value is not None and not 0 < value < 1:
        raise typer.BadParameter(f"{value:g} does not lie between 0 and 1, as in 0.6")
    return value


MinConfidence = Annotated[
    float | None,
    typer.Option(
        callback=_between,
        help="Less probable answers say that they are not sure, e.g. 0.6 (hansang report).",
        show_default="none",
    ),
]


def release(
    run: Annotated[Path, typer.Argument(help="The run directory, e.g. runs/first, or s3://…")],
    model: Model = "food42",
    repository: Repository = Path("models"),
    keep: Annotated[int, typer.Option(min=2, help="Versions to keep.")] = 5,
    rule: Rule = None,
    force: Force = "",
    precision: Precision = "fp32",
    min_confidence: MinConfidence = None,
    as_json: Json = False,
) -> None:
    """Export the best epoch; make it serve if it is better than what serves now.

    Checked: parity with torch on every validation photo; both models on the same held-out photos,
    through the service's own code (McNemar's test, no class may collapse); a call over gRPC;
    speed. What is not better is kept out, written into MODEL/history.jsonl, and ends with 1.

    int8 is calibrated on the training photos, and refused where it loses more than 0.5 points or
    changes 2% of the answers.

    Rules: test (mcnemar, bootstrap), alpha, max_recall_drop, min_photos_lost, min_new_recall,
    min_top1, max_slowdown, max_ms.

    Example: hansang release runs/first --model food42
    """
    from flows.release_gate import publish
    from service.models.working_copy import working_copy
    from training.buckets import mirror

    rules = _rules(rule)
    run = mirror.pull(run)
    with progress("check") as report, working_copy(repository) as folder:
        released = publish.release(
            run, model=model, repository=folder, keep=keep, rules=rules, force=force,
            precision=precision, min_confidence=min_confidence, progress=report,
        )  # fmt: skip
    path = released.path and repository / released.path.relative_to(folder)
    released = replace(released, repository=repository, path=path)
    print_release(released, as_json)
    if not released.released:
        serves = f"version {released.version} serves on" if released.version else "nothing serves"
        raise UserError(f"not released: {released.reason}. {serves} (--force REASON overrides)")


def pipeline(
    data: Data,
    run: RunId = None,
    recipe: Annotated[str, typer.Option(help="Recipe to train with.")] = "scratch",
    epochs: Epochs = None,
    image_size: ImageSize = 224,
    setting: Set = None,
    group: Group = "",
    model: Model = "food42",
    runs_dir: RunsDir = Path("runs"),
    cache_dir: CacheDir = Path("cache"),
    repository: Repository = Path("models"),
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse photos that leak, conflict or are broken.")
    ] = False,
    min_changed: Annotated[
        float, typer.Option(min=0, max=1, help="Share of new photos that is worth a training.")
    ] = 0.0,
    review: Review = False,
    rule: Rule = None,
    force: Force = "",
    min_confidence: MinConfidence = None,
    as_json: Json = False,
) -> None:
    """Inspect, prepare, train, and release what is better, in one Prefect flow.

    Works with nothing configured (an embedded server), or with the server that PREFECT_API_URL or
    Prefect's profile names. It says first which one it writes to.

    Example: hansang pipeline photos --run first --epochs 20 --image-size 64
    """
    from training.recipes import require_settings

    overrides = settings(setting or [])
    require_settings(overrides)
    rules = _rules(rule)
    # Prefect takes its time to start: what would fail fails before, and photos are looked at first.
    look(data, cache_dir, group=group)
    require_writable(runs_dir, "--runs-dir")
    require_writable(repository, "--repository")
    released = _run_pipeline(
        data=data,
        run_id=run,
        training={
            "recipe": recipe,
            "epochs": epochs,
            "image_size": image_size,
            "overrides": overrides,
            "group": group,
        },
        model=model,
        places={"runs_dir": runs_dir, "cache_dir": cache_dir, "repository": repository},
        nightly={"strict": strict, "min_changed": min_changed, "review": review},
        rules=rules,
        force=force,
        min_confidence=min_confidence,
    )
    if released is None:
        say("too few photos have changed since the last run: nothing was trained")
        return
    print_release(released, as_json)


def demo(
    out: Annotated[Path, typer.Option(help="Where everything of the demo lies.")] = Path("demo"),
    classes: Annotated[int, typer.Option(min=2, max=42, help="Dishes to draw.")] = 42,
    per_class: Annotated[int, typer.Option(min=10, help="Pictures of each dish.")] = 60,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs to train.")] = 20,
    image_size: ImageSize = 64,
    port: Annotated[int, typer.Option(help="Port of the service; 0 takes a free one.")] = 0,
    as_json: Json = False,
) -> None:
    """Walk the whole road on drawn photos: draw, train, release, serve, classify.

    Needs no photos, no GPU and no server. Run again, it goes on where it was stopped. On a terminal
    it serves until Ctrl-C, with a page to try photos.

    Example: hansang demo --epochs 5
    """
    from flows.local.demo import classify_split, free_port, outcome, serving
    from training.samples.sample import draw_photos

    photos, run_dir, repository = out / "photos", out / "runs" / "demo", out / "models"
    with progress("draw") as report:
        draw_photos(photos, classes=classes, per_class=per_class, progress=report)
    released = _run_pipeline(
        data=photos,
        run_id=run_dir.name,
        training={"epochs": epochs, "image_size": image_size},
        places={
            "runs_dir": run_dir.parent,
            "cache_dir": out / "cache",
            "repository": repository,
        },
        force="the demo serves what it has trained",
    )
    http_port = free_port()
    with serving(repository, port or free_port(), http_port) as address:
        say(f"try a photo: http://localhost:{http_port}/")
        with progress("classify") as report:
            answers = classify_split(address, photos / "val", progress=report)
        result = outcome(released, answers, classes)
        if as_json:
            print_json(asdict(result))
            return
        _print_demo(result, released, photos, run_dir)
        if sys.stdout.isatty():
            print(f"\nServing until Ctrl-C: try a photo at http://localhost:{http_port}/")
            with suppress(KeyboardInterrupt):
                threading.Event().wait()


def _print_demo(result: "Outcome", released: "Release", photos: Path, run_dir: Path) -> None:
    """Print what the demo made, and what to do next."""
    print_table(
        "Hansang: the whole road",
        ["what", "value"],
        [
            ["validation top-1, best epoch", f"{result.val_top1:.1%} (epoch {result.best_epoch})"],
            ["the same photos through gRPC", f"{result.served_top1:.1%} of {result.photos}"],
            ["trained", f"{result.epochs} epochs, {result.photos_per_s:.0f} photos/s"],
            ["one answer", f"{result.ms_per_answer:.1f} ms"],
            ["photos", photos],
            ["data sheet", run_dir / "sheet" / "index.html"],
            ["run report", run_dir / "report.html"],
            ["run", run_dir],
            ["served model", released.path],
        ],
    )
    photo = next((photos / "val").glob("*/*"))
    print("\nNext:")
    print(f"  hansang serve --repository {shell(released.repository)}")
    print(f"  hansang classify {shell(photo)}    # in a second terminal")
    print("  hansang pipeline PHOTOS --run first --epochs 20 --image-size 64    # your own photos")


def _run_pipeline(**parameters: Any) -> Any:
    """Run the flow in this process; Prefect stays quiet where progress bars are shown."""
    if sys.stderr.isatty():
        os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")
    from flows.pipeline import pipeline as flow
    from flows.prefect_setup import address

    say(address.said())

    # Prefect logs a traceback with every failure; an error for people is its own last line.
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(_without_traceback)
    return flow(**parameters)


def _without_traceback(record: logging.LogRecord) -> bool:
    if record.exc_info and isinstance(record.exc_info[1], UserError):
        record.exc_info = None
    return True


def _rules(items: list[str] | None) -> Any:
    """Read the values of `--rule KEY=VALUE`."""
    from pydantic import ValidationError

    from flows.release_gate.gate import Rules

    try:
        return Rules.model_validate(settings(items or []))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise UserError(
            f"--rule {name}: {first['msg'].lower()}; there are {', '.join(Rules.model_fields)}"
        ) from error
