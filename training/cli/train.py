"""`hansang train`, which is also `python -m training`."""

import sys
import threading
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from storage import bucket_url, require_writable
from terminal import no_progress, progress, say, settings
from training.cli.batch import NAMES, with_batch
from training.cli.options import (
    AcceptChanges,
    CacheDir,
    Data,
    Device,
    Group,
    Json,
    PlacementName,
    RunId,
    RunsDir,
    StopWithParent,
    Tensorboard,
    Threads,
)
from training.cli.photos import look, look_again, new_id, prepared
from training.cli.tables import print_results
from training.cli.within import chosen_for, deadline_of
from training.loop.stopping import ask_to_stop, stop_at_end_of_input, stop_on_signals

if TYPE_CHECKING:
    from training.budget.deadline import Deadline
    from training.config import TrainConfig
    from training.data.dataset import PhotoFolder
    from training.distributed.world import World
    from training.errors import DataError
    from training.runs.result import TrainResult

Recipe = Annotated[
    str | None, typer.Option(help="scratch, long or baseline.", show_default="scratch")
]
Epochs = Annotated[int | None, typer.Option(min=1, help="Epochs.", show_default="the recipe's")]
ImageSize = Annotated[
    int | None, typer.Option(min=32, max=512, help="Side in pixels.", show_default="the recipe's")
]
BatchSize = Annotated[
    str | None,
    typer.Option(
        help="Photos in a step; large suits a GPU (docs/guides/gpu.md); auto is the default's, in"
        " parts that fit the device.",
        show_default="large on CUDA, else the recipe's",
    ),
]
Within = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="Choose side, batch and epochs that promise most in this time, e.g. 30m or 1h30m.",
    ),
]
Extend = Annotated[bool, typer.Option("--extend", help="Give a run that exists more --epochs.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting, e.g. optimizer.lr=0.02."),
]
Seed = Annotated[int | None, typer.Option(min=0, help="Seed.", show_default="0")]
Seeds = Annotated[int, typer.Option(min=1, help="Train so many times, from --seed on, and sum up.")]
NumProcesses = Annotated[
    int, typer.Option(min=1, help="Processes that share each batch, one a device.")
]
SyncBatchNorm = Annotated[
    bool,
    typer.Option(
        "--sync-batchnorm",
        help="Let BatchNorm see the photos of all processes: for fewer than 16 photos in each.",
    ),
]


def train(
    data: Data,
    recipe: Recipe = None,
    epochs: Epochs = None, image_size: ImageSize = None, batch_size: BatchSize = None,
    within: Within = None,
    run: RunId = None, extend: Extend = False, accept_changes: AcceptChanges = False,
    setting: Set = None,
    seed: Seed = None, seeds: Seeds = 1,
    device: Device = "auto", placement: PlacementName = "auto",
    nproc: NumProcesses = 1, sync_batchnorm: SyncBatchNorm = False, threads: Threads = None,
    group: Group = "",
    runs_dir: RunsDir = Path("runs"), cache_dir: CacheDir = Path("cache"),
    tensorboard: Tensorboard = False,
    as_json: Json = False,
    stop_with_parent: StopWithParent = False,
) -> None:  # fmt: skip
    """Train ResNet18 on a folder of photos, or go on with a run.

    A run that was stopped or killed at any step goes on when the same command is given again, and
    ends with the very weights of one never stopped. It goes on with the photos that it began with;
    what has changed since waits for the next run. Another device, torch or number of threads is
    refused without --accept-changes. SIGTERM, SIGUSR1 and SIGHUP save and exit with 75.

    --within 30m measures steps on this device, and chooses what promises most from the first look
    to the report; what else is given is kept. A run that goes on keeps what was chosen.

    --runs-dir and --cache-dir may be s3://bucket/prefix. What lies there is worked on in a copy in
    work/ (or HANSANG_WORK), and each checkpoint is pushed: another machine may go on from there.

    Its report is RUN/report.html. With MLFLOW_TRACKING_URI set (and mlflow-skinny installed, see
    requirements/mlflow.txt) epochs, settings, files and report go there as well.

    Example: hansang train photos --run first --epochs 20 --image-size 64
    """
    if stop_with_parent:
        threading.Thread(target=stop_at_end_of_input, daemon=True).start()
    chosen = {"epochs": epochs, "image_size": image_size, "seed": seed, "threads": threads,
              "batch_size": None if batch_size in NAMES else batch_size}  # fmt: skip
    overrides = {name: value for name, value in chosen.items() if value is not None}
    # Without the flag, a run that goes on keeps what it began with.
    overrides |= {"sync_batchnorm": True} if sync_batchnorm else {}
    overrides |= settings(setting or [])
    deadline = deadline_of(within, extend=extend, nproc=nproc, num_runs=seeds)
    run = run or new_id(data, recipe or "scratch")
    _check(overrides, recipe, runs_dir / run)
    if nproc > 1:
        from training.distributed.launch import launch

        launch(nproc, _without_nproc(sys.argv[1:], run))
        return
    runs = [(runs_dir / run, overrides)]
    if seeds > 1:
        all_seeds = range(seed or 0, (seed or 0) + seeds)
        runs = [(runs_dir / f"{run}-seed{n}", {**overrides, "seed": n}) for n in all_seeds]
    goes_on = bucket_url(runs_dir) is not None or (runs[0][0] / "config.json").exists()
    photos = (look_again if goes_on else look)(data, cache_dir, group=group)
    require_writable(runs_dir / run, "--runs-dir")
    _train_runs(
        runs, photos, recipe, deadline, batch=batch_size or "", extend=extend,
        accept_changes=accept_changes, device=device, placement=placement, cache_dir=cache_dir,
        tensorboard=tensorboard, as_json=as_json,
    )  # fmt: skip


def _train_runs(
    runs: list[tuple[Path, dict[str, Any]]], photos: "PhotoFolder | DataError",
    recipe: str | None, deadline: "Deadline | None", *, batch: str, extend: bool,
    accept_changes: bool, device: str, placement: str, cache_dir: Path, tensorboard: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Train runs with their settings, one after another, and print the results."""
    from training.data.loader import placement_of
    from training.distributed.world import joined
    from training.errors import ReportError
    from training.loop.trainer import train as train_run
    from training.model.device import device_for
    from training.reports.tracking import reported, tracked
    from training.runs import run_directory

    results: list[TrainResult] = []
    unreported: list[str] = []
    begun: dict[str, Any] | None = None
    chosen: dict[str, Any] = {}
    with joined(cuda=device_for(device).type == "cuda") as world, ExitStack() as copies:
        for run_dir, overrides in runs:
            run_dir = _working_copy(run_dir, world, copies)
            about = run_directory.read(run_dir)
            # Further seeds learn from the photos of the first.
            begun = begun or about
            if deadline is not None:
                begins = _config(about, None if about else recipe, {} if about else overrides)
                chosen = chosen or chosen_for(
                    deadline, begins, overrides, photos, device, exists=about is not None
                )
                overrides = {**chosen, **overrides}
            config = _config(about, recipe, overrides)
            # The leading process builds the cache, and the others open it.
            if not world.leads:
                world.wait()
            cache = prepared(photos, config.image_size, cache_dir, begun=begun, leads=world.leads)
            if world.leads:
                world.wait()
            config = with_batch(config, batch, about, cache, device, world, overrides)
            if world.leads:
                say(f"run: {run_dir}")
            # Until here there was nothing to save, and a signal ended the process at once.
            stop = stop_on_signals()
            with tracked(run_dir, tensorboard=tensorboard) if world.leads else nullcontext():
                with progress("train") if world.leads else nullcontext(no_progress) as report:
                    result = train_run(
                        config, cache, run_dir, device=device, placement=placement_of(placement),
                        extend=extend, accept_changes=accept_changes, world=world,
                        should_stop=stop.is_set, progress=report,
                    )  # fmt: skip
                if world.leads:
                    unreported += filter(None, [reported(run_dir)])
            results.append(result)
        if world.leads:
            print_results(results, as_json)
    # Last, so that it is not overlooked, and with a code of its own: the runs are trained.
    if unreported:
        raise ReportError("; ".join(unreported))


def _check(overrides: dict[str, Any], recipe: str | None, run_dir: Path) -> None:
    """Refuse wrong settings before torch is loaded; those of a run that exists are checked later.

    Raises:
        ConfigError: A setting or the recipe is unknown, or out of range.
    """
    from training.recipes import require_settings

    require_settings(overrides)
    if bucket_url(run_dir) is None and not run_dir.exists():
        _config(None, recipe, overrides)


def _working_copy(run_dir: Path, world: "World", copies: ExitStack) -> Path:
    """Return where the run lies on this machine; one in a bucket is fetched, and pushed later.

    The leading process pushes. Processes on other machines have copies of their own.
    """
    from training.buckets import mirror

    if world.leads:
        run_dir = copies.enter_context(mirror.working_copy(run_dir, lost=ask_to_stop))
        world.wait()
    else:
        world.wait()
        run_dir = mirror.local_path(run_dir) if world.local_rank else mirror.pull(run_dir)
    world.wait()
    return run_dir


def _config(
    about: dict[str, Any] | None, recipe: str | None, overrides: dict[str, Any]
) -> "TrainConfig":
    """Return the recipe's config; for a run that exists and no recipe given, the run's own."""
    from training.config import TrainConfig
    from training.recipes import recipe as recipe_of

    if about is not None and recipe is None:
        config = TrainConfig.from_dict(about["config"])
    else:
        config = recipe_of(recipe or "scratch")
    return config.with_overrides(overrides)


def _without_nproc(arguments: list[str], run: str) -> list[str]:
    """Return the arguments for each process: without the verb and --nproc, and with the run ID."""
    kept, items = [], iter(arguments[1:] if arguments[:1] == ["train"] else arguments)
    for item in items:
        if item == "--nproc":
            next(items, None)
        elif not item.startswith("--nproc="):
            kept.append(item)
    named = any(item == "--run" or item.startswith("--run=") for item in kept)
    return kept if named else [*kept, "--run", run]
