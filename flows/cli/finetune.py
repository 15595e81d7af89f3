"""`hansang finetune`: the weights of one set of photos, taken to another."""

import glob
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.finetune_tables import show_single, show_study
from photo_folder.names import shell
from storage import require_writable
from terminal import UserError, print_json, say, settings
from training.cli.options import (
    AcceptChanges,
    CacheDir,
    Device,
    Group,
    Json,
    PlacementName,
    RunId,
    StopWithParent,
    StudiesDir,
    Tensorboard,
    Threads,
)
from training.cli.photos import look, look_again, new_id, prepared, title_of

if TYPE_CHECKING:
    from training.data.cache import DatasetCache
    from training.finetuning.retention import Retention
    from training.finetuning.runner import Runner
    from training.model.pretrained import Start

Data = Annotated[
    Path, typer.Argument(help="train/ val/ (test/) of class folders, or class folders alone.")
]
Source = Annotated[
    str,
    typer.Option(
        "--from",
        metavar="SOURCE",
        help="A run directory, a released MODEL[:VERSION], a state dict (.safetensors, .pth)"
        " under torchvision's names, torchvision: its ImageNet weights, or hf-hub:OWNER/NAME.",
    ),
]
Strategy = Annotated[
    str,
    typer.Option(
        help="auto, linear-probe, last-layers, full, lp-ft, gradual, first-block or scratch."
    ),
]
Epochs = Annotated[int | None, typer.Option(min=1, help="Epochs of a full run.", show_default="30")]
ImageSize = Annotated[
    int | None, typer.Option(min=32, max=512, help="Side in pixels.", show_default="the source's")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting, e.g. transfer.views=4."),
]
Seed = Annotated[int, typer.Option(min=0, help="The first seed.")]
Seeds = Annotated[
    int | None,
    typer.Option(min=1, help="Seeds of the finalists.", show_default="3 with auto, else 1"),
]
Among = Annotated[
    list[str] | None,
    typer.Option(help="auto: a strategy to try; repeat it.", show_default="all of them"),
]
Keep = Annotated[
    list[str] | None,
    typer.Option(help="auto: a strategy that is never dropped, e.g. scratch, to compare with."),
]
ReportForgetting = Annotated[
    bool, typer.Option("--report-forgetting", help="Probe the old classes before and after.")
]
OldPhotos = Annotated[
    Path | None,
    typer.Option(help="The old photos, where the source is no run or its cache is gone."),
]
OldGroup = Annotated[
    str, typer.Option(metavar="RULE", help="As --group, of --old-photos.", show_default="none")
]
Features = Annotated[
    bool, typer.Option(help="Keep what frozen parts make of photos; without, the same but slower.")
]
StudyFolder = Annotated[
    Path | None, typer.Option(hidden=True, help="The folder of the study whose run this is.")
]
Repository = Annotated[Path, typer.Option(help="The model repository.")]


def finetune(
    data: Data,
    source: Source,
    strategy: Strategy = "auto", epochs: Epochs = None, image_size: ImageSize = None,
    run: RunId = None, setting: Set = None,
    seed: Seed = 0, seeds: Seeds = None, among: Among = None, keep: Keep = None,
    report_forgetting: ReportForgetting = False, old_photos: OldPhotos = None,
    old_group: OldGroup = "", features: Features = True,
    device: Device = "auto", placement: PlacementName = "auto", threads: Threads = None,
    group: Group = "", accept_changes: AcceptChanges = False, study: StudyFolder = None,
    runs_dir: StudiesDir = Path("runs"), cache_dir: CacheDir = Path("cache"),
    repository: Repository = Path("models"),
    tensorboard: Tensorboard = False, as_json: Json = False,
    stop_with_parent: StopWithParent = False,
) -> None:  # fmt: skip
    """Fine-tune trained weights to another set of photos, by one strategy or the best of all.

    auto measures how large the new set is and how well the old features tell its classes apart,
    says what the four-way rule makes of that, runs every strategy for a few epochs, drops the
    worse half, trains the last two in full over several seeds, and recommends the most accurate. A
    difference inside its interval is a tie. RUNS/ID/report.html has the table.

    Stopped or killed at any moment, the same command with the same --run goes on.

    Example: hansang finetune health --from runs/first --run health --seeds 3
    """
    if stop_with_parent:
        _stop_with_parent()
    overrides = _overrides(setting or [], threads)
    run_dir = runs_dir / (run or new_id(data, strategy))
    begun = _begun(study or run_dir)
    folder = (look if begun is None else look_again)(data, cache_dir, group=group)
    require_writable(run_dir, "--runs-dir")
    from flows.tasks.start import start_from
    from training.finetuning.runner import Runner
    from training.recipes import recipe

    # A wrong name must not cost the time of reading photos.
    start = start_from(source, repository=repository, runs_dir=runs_dir)
    epochs = epochs or recipe("finetune").epochs
    strategies = [strategy] if strategy != "auto" else _strategies(among or [], keep or [])
    size = _checked_size(strategies, start, epochs, image_size, overrides)
    say(f"from: {start.name}")
    cache = prepared(folder, size, cache_dir, begun=begun, start=start)
    runner = Runner(
        cache=cache, start=start, image_size=size, overrides=overrides, device=device,
        placement=placement, use_features=features, tensorboard=tensorboard,
        accept_changes=accept_changes,
    )  # fmt: skip
    trained = _Study(
        runner=runner, cache=cache, start=start, model=title_of(data),
        old=_old(old_photos, old_group, start, cache_dir) if report_forgetting else None,
        run_dir=run_dir, epochs=epochs,
        seeds=[seed + number for number in range(seeds or (3 if strategy == "auto" else 1))],
    )  # fmt: skip
    if strategy == "auto":
        _run_all(trained, strategies, keep or [], as_json)
    else:
        _run_one(trained, strategy, as_json)
    runner.require_reports()


@dataclass(frozen=True, kw_only=True)
class _Study:
    """What is trained, once the photos are prepared."""

    runner: "Runner"
    cache: "DatasetCache"
    start: "Start"
    """The weights that every run starts from."""
    old: "DatasetCache | None"
    """The photos that they learnt from, if forgetting is reported."""
    model: str
    """The name to release it under."""
    run_dir: Path
    epochs: int
    """Of a full run."""
    seeds: Sequence[int]


def _stop_with_parent() -> None:
    """Stop as for SIGTERM once standard input ends: whoever started this process is gone."""
    from training.loop.stopping import stop_at_end_of_input

    threading.Thread(target=stop_at_end_of_input, daemon=True).start()


def _begun(study: Path) -> dict[str, Any] | None:
    """Return what the first run of a study says of itself; None if none has begun."""
    from training.runs.run_directory import begun_in

    # With one strategy and several seeds, the runs lie beside each other.
    return begun_in(study, *sorted(study.parent.glob(f"{glob.escape(study.name)}-seed*")))


def _overrides(items: Sequence[str], threads: int | None) -> dict[str, Any]:
    """Return the settings that the command line changes.

    Raises:
        ConfigError: One has an unknown name.
    """
    from training.recipes import require_settings

    found: dict[str, Any] = settings(items)
    require_settings(found)
    return {**found, **({} if threads is None else {"threads": threads})}


def _strategies(among: Sequence[str], keep: Sequence[str]) -> list[str]:
    """Return the strategies that auto tries, in the order of the search; unknown names last."""
    from training.finetuning.search import STRATEGIES

    named = [*among, *keep]
    known = [name for name in STRATEGIES if not among or name in named]
    return [*known, *(name for name in named if name not in STRATEGIES)]


def _checked_size(
    strategies: Sequence[str],
    start: "Start",
    epochs: int,
    image_size: int | None,
    overrides: dict[str, Any],
) -> int:
    """Return the side of the squares in pixels, once the settings of every strategy are checked.

    Raises:
        TrainingError: A strategy or a setting is unknown, or has a value that it cannot have.
    """
    from training.finetuning.search import config_for

    configs = [
        config_for(name, start, epochs=epochs, image_size=image_size, overrides=overrides)
        for name in strategies
    ]
    return configs[0].image_size


def _run_one(study: _Study, strategy: str, as_json: bool) -> None:
    """Train by one strategy, once for each seed, and print the results."""
    from training.finetuning.search import single

    jobs = single(study.run_dir, strategy, study.epochs, study.seeds)
    results = study.runner.run_all(jobs)
    show_single(results, _retention(study, jobs[0].run_dir), as_json)


def _run_all(study: _Study, strategies: Sequence[str], keep: Sequence[str], as_json: bool) -> None:
    """Search among the strategies, write the report, and print its figures."""
    from training.finetuning import strategies_page
    from training.finetuning.search import search
    from training.finetuning.similarity import measure
    from training.finetuning.strategies import summarise

    similarity = measure(study.cache, study.start)
    for sentence in similarity.sentences:
        say(sentence)
    jobs = search(
        study.run_dir, study.epochs, study.seeds, study.runner.run_all,
        strategies=strategies, keep=keep,
    )  # fmt: skip
    summary = summarise(jobs)
    kept = _retention(study, Path(summary.recommended.runs[0]))
    found = strategies_page.write(study.run_dir, study.start.name, summary, similarity, kept)
    if as_json:
        print_json(found)
        return
    show_study(summary, kept)
    say(f"report: {found['report']}")
    say(f"release it: hansang release {shell(found['release'])} --model {shell(study.model)}")


def _old(photos: Path | None, group: str, start: "Start", cache_dir: Path) -> "DatasetCache":
    """Return the photos that the source learnt from, in the groups of a rule or of its own cache.

    Raises:
        UserError: They were not given, and the source's own cache is gone or not known.
    """
    from training.data.cache import DatasetCache

    if photos is not None:
        folder = look(photos, cache_dir, group=group)
        return prepared(folder, start.image_size or 224, cache_dir)
    if group:
        raise UserError("--old-group is the rule for --old-photos FOLDER, which is not given")
    known = start.photos
    if known is None or not (known / "manifest.json").is_file():
        raise UserError(
            "--report-forgetting needs the photos that the source learnt from, and"
            f" {'its cache ' + str(known) + ' is gone' if known else 'they are not known'}; give"
            " them: --old-photos FOLDER"
        )
    return DatasetCache.open(known)


def _retention(study: _Study, run_dir: Path) -> "Retention | None":
    """Measure what a run kept of the old classes, and write it beside the run; None if unasked."""
    from training.files import write_text
    from training.finetuning.retention import retention

    if study.old is None:
        return None
    kept = retention(study.start, run_dir, study.old)
    write_text(run_dir / "retention.json", json.dumps(kept.to_dict(), indent=2))
    return kept
