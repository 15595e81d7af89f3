"""`hansang finetune`: the weights of one set of photos, taken to another."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from terminal import print_json, print_table, progress, say, settings
from training.cli.options import (
    CacheDir,
    Device,
    Json,
    PlacementName,
    StopWithParent,
    StudiesDir,
    Tensorboard,
    Threads,
)

if TYPE_CHECKING:
    from training.finetuning.retention import Retention
    from training.finetuning.strategies import Strategies


def finetune(
    data: Annotated[
        Path, typer.Argument(help="train/ val/ (test/) of class folders, or class folders alone.")
    ],
    source: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="SOURCE",
            help="A run directory, a released MODEL[:VERSION], a state dict (.safetensors, .pth)"
            " under torchvision's names, or torchvision: its ImageNet weights.",
        ),
    ],
    strategy: Annotated[
        str,
        typer.Option(
            help="auto, linear-probe, last-layers, full, lp-ft, gradual, first-block or scratch."
        ),
    ] = "auto",
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs of a full run.", show_default="30")
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(min=32, max=512, help="Side in pixels.", show_default="the source's"),
    ] = None,
    run: Annotated[
        str | None, typer.Option(help="Run ID; what exists goes on.", show_default="new")
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting, e.g. transfer.views=4."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The first seed.")] = 0,
    seeds: Annotated[
        int | None,
        typer.Option(min=1, help="Seeds of the finalists.", show_default="3 with auto, else 1"),
    ] = None,
    among: Annotated[
        list[str] | None,
        typer.Option(help="auto: a strategy to try; repeat it.", show_default="all of them"),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(help="auto: a strategy that is never dropped, e.g. scratch, to compare with."),
    ] = None,
    report_forgetting: Annotated[
        bool,
        typer.Option(
            "--report-forgetting", help="Probe the old classes before and after, on old photos."
        ),
    ] = False,
    old_photos: Annotated[
        Path | None,
        typer.Option(help="The old photos, where the source is no run or its cache is gone."),
    ] = None,
    features: Annotated[
        bool,
        typer.Option(help="Keep what frozen parts make of photos; without, the same but slower."),
    ] = True,
    device: Device = "auto",
    placement: PlacementName = "auto",
    threads: Threads = None,
    runs_dir: StudiesDir = Path("runs"),
    cache_dir: CacheDir = Path("cache"),
    repository: Annotated[Path, typer.Option(help="The model repository.")] = Path("models"),
    tensorboard: Tensorboard = False,
    as_json: Json = False,
    stop_with_parent: StopWithParent = False,
) -> None:
    """Fine-tune trained weights to another set of photos, by one strategy or the best of all.

    auto measures how large the new set is and how well the old features tell its classes apart,
    says what the four-way rule makes of that, runs every strategy for a few epochs, drops the
    worse half, trains the last two in full over several seeds, and recommends: a difference inside
    its interval is a tie, and the cheaper strategy wins. RUNS/ID/report.html has the table.

    Stopped or killed at any moment, the same command with the same --run goes on.

    Example: hansang finetune health --from runs/first --run health --seeds 3
    """
    from training.loop.stopping import stop_at_end_of_input

    if stop_with_parent:
        threading.Thread(target=stop_at_end_of_input, daemon=True).start()
    from flows.tasks.start import start_from
    from training.data.prepare import prepare
    from training.finetuning.runner import Runner
    from training.finetuning.search import STRATEGIES, config_for, search, single
    from training.recipes import recipe

    # A wrong name must not cost the time of reading photos.
    start = start_from(source, repository=repository, runs_dir=runs_dir)
    overrides: dict[str, Any] = {**settings(setting or [])}
    if threads is not None:
        overrides["threads"] = threads
    num_epochs = epochs or recipe("finetune").epochs
    field = [name for name in STRATEGIES if not among or name in {*among, *(keep or [])}]
    configs = [
        config_for(name, start, epochs=num_epochs, image_size=image_size, overrides=overrides)
        for name in ([strategy] if strategy != "auto" else [*field, *(among or []), *(keep or [])])
    ]
    say(f"from: {start.name}")
    with progress("prepare") as report:
        cache = prepare(data, configs[0].image_size, cache_root=cache_dir, progress=report)
    for path, reason in cache.bad_files.items():
        say(f"left out: {path}: {reason}")
    run_dir = runs_dir / (run or _new_id(data, strategy))
    runner = Runner(
        cache=cache, start=start, image_size=configs[0].image_size, overrides=overrides,
        device=device, placement=placement, use_features=features, tensorboard=tensorboard,
    )  # fmt: skip
    old = None
    if report_forgetting:
        old = _old_cache(old_photos, start.photos, start.image_size, cache_dir)
    wanted = seeds or (3 if strategy == "auto" else 1)
    numbers = [seed + number for number in range(wanted)]
    if strategy != "auto":
        jobs = single(run_dir, strategy, num_epochs, numbers)
        results = runner.run_all(jobs)
        kept = None if old is None else _retention(start, jobs[0].run_dir, old)
        _show_single(results, kept, as_json)
        return
    from training.finetuning import strategies_page
    from training.finetuning.similarity import measure
    from training.finetuning.strategies import summarise

    similarity = measure(cache, start)
    for sentence in similarity.sentences:
        say(sentence)
    jobs = search(run_dir, num_epochs, numbers, runner.run_all, strategies=field, keep=keep or ())
    study = summarise(jobs)
    kept = None if old is None else _retention(start, Path(study.recommended.runs[0]), old)
    found = strategies_page.write(run_dir, start.name, study, similarity, kept)
    if as_json:
        print_json(found)
        return
    _show_study(study, kept)
    say(f"report: {found['report']}")
    say(f"release it: hansang release {found['release']} --model {data.resolve().name}")


def _old_cache(
    photos: Path | None, known: Path | None, image_size: int | None, cache_dir: Path
) -> Path:
    """Return the dataset cache of the old photos."""
    from terminal import UserError
    from training.data.prepare import prepare

    if photos is not None:
        with progress("prepare old photos") as report:
            return prepare(photos, image_size or 224, cache_root=cache_dir, progress=report).path
    if known is None or not (known / "manifest.json").is_file():
        raise UserError(
            "--report-forgetting needs the photos that the source learnt from, and"
            f" {'its cache ' + str(known) + ' is gone' if known else 'they are not known'}; give"
            " them: --old-photos FOLDER"
        )
    return known


def _retention(start: Any, run_dir: Path, old: Path) -> "Retention":
    import json

    from training.files import write_text
    from training.finetuning.retention import retention

    kept = retention(start, run_dir, old)
    write_text(run_dir / "retention.json", json.dumps(kept.to_dict(), indent=2))
    return kept


def _show_single(results: Sequence[Any], kept: "Retention | None", as_json: bool) -> None:
    from training.cli.train import show

    if as_json and kept is not None and len(results) == 1:
        print_json({**results[0].to_dict(), "retention": kept.to_dict()})
        return
    show(list(results), as_json)
    if kept is not None and not as_json:
        print_table("Old classes", ["what", "value"], _retention_rows(kept))


def _show_study(study: "Strategies", kept: "Retention | None") -> None:
    from training.pages.page import percent, points, points_span, span

    rows: list[list[object]] = []
    for row in study.rows:
        d = row.behind
        behind = f"{points(d.value)} ({points_span((d.low, d.high))})" if d else "–"
        rows.append([
            row.strategy, f"{percent(row.val_top1)} ({span(row.interval)})", behind,
            f"{row.epochs} × {row.seeds}", f"{row.time_s:.0f}", f"{row.num_trained / 1e6:.3g} M",
            row.verdict,
        ])  # fmt: skip
    columns = ["strategy", "top-1 (95 %)", "behind (95 %)", "epochs", "s", "trained", "verdict"]
    print_table("Fine-tuning", columns, rows)
    if kept is not None:
        print_table("Old classes", ["what", "value"], _retention_rows(kept))


def _retention_rows(kept: "Retention") -> list[list[object]]:
    from training.pages.page import percent, points, points_span

    value = kept.change.value or 0.0
    return [
        ["probe before", percent(kept.before)],
        ["probe after", percent(kept.after)],
        ["change in points (95 %)", f"{points(value)} ({points_span(kept.change.interval)})"],
    ]


def _new_id(data: Path, strategy: str) -> str:
    from datetime import datetime

    return f"{data.resolve().name}-{strategy}-{datetime.now():%Y%m%d-%H%M%S}"
