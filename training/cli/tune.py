"""`hansang tune`: a search, its report, and the final run of the winner."""

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from machine import num_cores
from storage import require_writable
from terminal import print_json, progress
from training.cli.options import (
    AcceptChanges,
    CacheDir,
    Data,
    Device,
    Group,
    Json,
    StopWithParent,
    StudiesDir,
    StudySide,
    named,
)
from training.cli.photos import look, look_again, prepared, title_of
from training.cli.tables import print_search
from training.loop.stopping import stop_at_end_of_input, stop_on_signals

if TYPE_CHECKING:
    from training.data.cache import DatasetCache
    from training.tuning.final import Final
    from training.tuning.search import Outcome
    from training.tuning.study import Plan, Study

Epochs = Annotated[int, typer.Option(min=1, help="Epochs of each trial.")]
Trials = Annotated[
    int, typer.Option(min=1, help="Trials in all; a study that exists may be given more.")
]
StudyName = Annotated[
    str | None,
    typer.Option(
        callback=named, help="Name; one that exists goes on.", show_default="<DATA's name>-tune"
    ),
]
SpaceName = Annotated[
    str, typer.Option(help="default, or a TOML file that changes it (docs/guides/tuning.md).")
]
Storage = Annotated[
    str | None,
    typer.Option(
        envvar="HANSANG_STORAGE",
        help="URL of the study's database: postgresql://… for several machines.",
        show_default="SQLite in the study's folder",
    ),
]
Workers = Annotated[
    int, typer.Option(min=1, help="Processes on this machine; more may join from others.")
]
Recipe = Annotated[
    str, typer.Option(help="Recipe that settings which are not searched are taken from.")
]
Pruning = Annotated[
    bool, typer.Option("--pruning/--no-pruning", help="Give up trials that fall behind.")
]
FinalEpochs = Annotated[
    int, typer.Option(min=0, help="Train the winner, and the recipes, for so many epochs.")
]
Seeds = Annotated[
    int, typer.Option(min=1, help="Seeds of the final run, from the one after --seed on.")
]
Seed = Annotated[int, typer.Option(min=0, help="Decides the search and every trial.")]
WorkerThreads = Annotated[
    int | None,
    typer.Option(min=1, help="CPU threads of a worker.", show_default="its share of cores"),
]
Most = Annotated[
    int | None,
    typer.Option(hidden=True, help="As a worker: so many trials at most, and no report."),
]


def tune(
    data: Data,
    epochs: Epochs = 20, trials: Trials = 40,
    study: StudyName = None, space: SpaceName = "default", storage: Storage = None,
    workers: Workers = 1,
    recipe: Recipe = "scratch", image_size: StudySide = 224,
    pruning: Pruning = True,
    final: FinalEpochs = 0, seeds: Seeds = 1, seed: Seed = 0,
    device: Device = "auto", threads: WorkerThreads = None,
    accept_changes: AcceptChanges = False,
    group: Group = "",
    runs_dir: StudiesDir = Path("runs"), cache_dir: CacheDir = Path("cache"),
    as_json: Json = False,
    stop_with_parent: StopWithParent = False, most: Most = None,
) -> None:  # fmt: skip
    """Search for better settings: optimizer, schedule, augmentation, batch, balance and the like.

    Trial 0 is the baseline recipe, trial 1 the one that the search starts from. Optuna's TPE
    proposes the others. A trial that falls behind at a quarter or half of its epochs is pruned.
    Without a test split, a third of the validation photos is kept to judge the --final runs.

    Stopped or killed, the same command goes on exactly. Given in a second terminal, or on a machine
    that shares RUNS and the --storage, it joins in. `optuna-dashboard STORAGE` shows it live.

    Example: hansang tune photos --trials 24 --image-size 64 --final 50
    """
    if stop_with_parent:
        threading.Thread(target=stop_at_end_of_input, daemon=True).start()
    opened, cache = _open(
        data, study, space, storage, runs_dir, cache_dir, recipe=recipe, epochs=epochs,
        image_size=image_size, seed=seed, pruning=pruning, group=group,
    )  # fmt: skip
    stop = stop_on_signals()
    share = threads or max(num_cores() // workers, 1)
    same_study = [
        str(data), *_arguments(opened.plan), "--trials", str(trials), "--space", space,
        "--device", device, "--threads", str(share), "--runs-dir", str(runs_dir),
        "--cache-dir", str(cache_dir), *(["--accept-changes"] if accept_changes else []),
        "--group", group,
    ]  # fmt: skip
    if storage is not None and workers > 1:
        # Not as an argument: everybody on the machine could read its password there.
        os.environ["HANSANG_STORAGE"] = storage
    how: dict[str, Any] = {"device": device, "accept_changes": accept_changes,
                           "should_stop": stop.is_set}  # fmt: skip
    done = _search(opened, cache, same_study, workers, trials, most, threads=share, **how)
    reached = None
    if final:
        # Without the search's seed: the winner is the trial that it happened to suit best.
        others = range(seed + 1, seed + 1 + seeds)
        reached = _final(opened, cache, same_study, workers, final, others, **how)
    if most is not None:
        print_json([one.to_dict() for one in done])
        return
    page, why = _report(opened, reached)
    print_search(opened, reached, page, as_json)
    if why is not None:
        from training.errors import ReportError

        raise ReportError(f"no report: {why}") from why


def _open(
    data: Path, study: str | None, space_name: str, storage: str | None, runs_dir: Path,
    cache_dir: Path, *, recipe: str, epochs: int, image_size: int, seed: int, pruning: bool,
    group: str,
) -> "tuple[Study, DatasetCache]":  # fmt: skip
    """Read the space, prepare the photos, and begin the study or join it."""
    name = study or f"{title_of(data)}-tune"
    goes_on = (runs_dir / name / "study.json").exists()
    photos = (look_again if goes_on else look)(data, cache_dir, group=group)
    require_writable(runs_dir / name, "--runs-dir")
    from training.data.dataset import judged
    from training.recipes import recipe as recipe_of
    from training.tuning.space_file import read_space
    from training.tuning.study import Plan, begun_with, open_study, read_plan

    budget = {"epochs": epochs, "image_size": image_size, "seed": seed}
    space = read_space(space_name, recipe_of(recipe).with_overrides(budget))
    begun = begun_with(runs_dir / name)
    judges = not goes_on or read_plan(runs_dir / name).judging is not None
    if judges and not isinstance(photos, Exception):
        photos = judged(photos)
        judges = photos.judging
    cache = prepared(photos, image_size, cache_dir, begun=begun)
    kept = len(cache.splits["test"].targets) if judges and "test" in cache.splits else None
    plan = Plan(
        name=name, recipe=recipe, epochs=epochs, image_size=image_size, seed=seed, pruning=pruning,
        dataset_hash=cache.dataset_hash, space=space.to_dict(), judging=kept,
    )  # fmt: skip
    return open_study(plan, runs_dir, storage, space, cache.path), cache


def _arguments(plan: "Plan") -> list[str]:
    """Return the options by which another process joins a study."""
    return [
        "--study", plan.name, "--recipe", plan.recipe, "--epochs", str(plan.epochs),
        "--image-size", str(plan.image_size), "--seed", str(plan.seed),
        "--pruning" if plan.pruning else "--no-pruning",
    ]  # fmt: skip


def _search(
    study: "Study", cache: "DatasetCache", arguments: Sequence[str], workers: int, trials: int,
    most: int | None, *, threads: int, should_stop: Callable[[], bool], **how: Any,
) -> "list[Outcome]":  # fmt: skip
    """Run the trials here, or in worker processes; return the outcomes of those run here."""
    from training.tuning.search import work
    from training.tuning.storages import failing_in_words
    from training.tuning.workers import run_workers

    with progress("tune") as report, failing_in_words():
        if workers == 1:
            return work(study, cache, trials=trials, most=most, threads=threads,
                        should_stop=should_stop, progress=report, **how)  # fmt: skip
        run_workers(arguments, workers, study, trials=trials, should_stop=should_stop,
                    progress=report)  # fmt: skip
    return []


def _final(
    study: "Study", cache: "DatasetCache", arguments: Sequence[str], workers: int, epochs: int,
    seeds: Sequence[int], **how: Any,
) -> "Final | None":  # fmt: skip
    """Train the winner and the recipes, with the help of the other worker processes."""
    from training.tuning.final import train_final
    from training.tuning.storages import failing_in_words
    from training.tuning.workers import started

    same_final = [
        "tune",
        *arguments,
        "--final",
        str(epochs),
        "--seeds",
        str(len(seeds)),
        "--most",
        "0",
    ]
    helpers = started(same_final, workers - 1, study.folder)
    with progress("final") as report, failing_in_words(), helpers:
        return train_final(
            study, cache, epochs=epochs, seeds=seeds, progress=report, **how
        )  # fmt: skip


def _report(study: "Study", final: "Final | None") -> tuple[Path | None, Exception | None]:
    """Write the study's page; return where it lies, or why there is none."""
    try:
        from training.tuning import study_report

        return study_report.write(study.folder, study.optuna, final), None
    except Exception as error:
        return None, error
