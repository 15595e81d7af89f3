"""`hansang train`, which is also `python -m training`."""

import sys
import threading
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from photo_folder.names import shell
from storage import bucket_url, require_writable
from terminal import no_progress, print_json, print_table, progress, say, settings
from training.cli.options import (
    CacheDir,
    Device,
    Json,
    PlacementName,
    RunsDir,
    StopWithParent,
    Tensorboard,
    Threads,
)
from training.cli.photos import look, new_id, prepared
from training.loop.stopping import ask_to_stop, stop_at_end_of_input, stop_on_signals

if TYPE_CHECKING:
    from training.config import TrainConfig
    from training.distributed.world import World
    from training.runs.result import TrainResult


def train(
    data: Annotated[
        Path, typer.Argument(help="train/ val/ (test/) of class folders, or class folders alone.")
    ],
    recipe: Annotated[
        str | None, typer.Option(help="scratch, long or baseline.", show_default="scratch")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs.", show_default="the recipe's")
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(min=32, max=512, help="Side in pixels.", show_default="the recipe's"),
    ] = None,
    batch_size: Annotated[
        str | None,
        typer.Option(
            help="Photos in a step; auto keeps the recipe's, in parts that fit the device.",
            show_default="the recipe's",
        ),
    ] = None,
    run: Annotated[
        str | None, typer.Option(help="Run ID; a run that exists goes on.", show_default="new")
    ] = None,
    extend: Annotated[
        bool, typer.Option("--extend", help="Give a run that exists more --epochs.")
    ] = False,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting, e.g. optimizer.lr=0.02."),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed.", show_default="0")] = None,
    seeds: Annotated[
        int, typer.Option(min=1, help="Train so many times, from --seed on, and sum up.")
    ] = 1,
    device: Device = "auto",
    placement: PlacementName = "auto",
    nproc: Annotated[
        int, typer.Option(min=1, help="Processes that share each batch, one a device.")
    ] = 1,
    threads: Threads = None,
    runs_dir: RunsDir = Path("runs"),
    cache_dir: CacheDir = Path("cache"),
    tensorboard: Tensorboard = False,
    as_json: Json = False,
    stop_with_parent: StopWithParent = False,
) -> None:
    """Train ResNet18 on a folder of photos, or go on with a run.

    A run that was stopped or killed at any step goes on when the same command is given again, and
    ends with the very weights of one never stopped. SIGTERM saves a checkpoint and exits with 75.

    --runs-dir and --cache-dir may be s3://bucket/prefix: what lies there is worked on in a copy in
    work/ (or HANSANG_WORK), each checkpoint is pushed as it comes, and a run whose machine died
    goes on from the bucket on another one.

    Its report is RUN/report.html. With MLFLOW_TRACKING_URI set (and mlflow-skinny installed, see
    requirements/mlflow.txt) epochs, settings, files and report go there as well.

    Example: hansang train photos --run first --epochs 20 --image-size 64
    """
    if stop_with_parent:
        threading.Thread(target=stop_at_end_of_input, daemon=True).start()
    chosen: dict[str, object] = {
        "epochs": epochs, "image_size": image_size, "seed": seed, "threads": threads,
        "batch_size": None if batch_size == "auto" else batch_size,
    }  # fmt: skip
    chosen = {name: value for name, value in chosen.items() if value is not None}
    chosen |= settings(setting or [])
    run = run or new_id(data, recipe or "scratch")
    _check(chosen, recipe, runs_dir / run)
    if nproc > 1:
        from training.distributed.launch import launch

        launch(nproc, _without_nproc(sys.argv[1:], run))
        return
    folder = look(data, cache_dir)
    require_writable(runs_dir / run, "--runs-dir")
    from training.data.loader import placement_of
    from training.distributed.world import joined
    from training.loop.trainer import train as train_run
    from training.model.device import device_for
    from training.reports.tracking import tracked, write_report
    from training.runs import run_directory

    results = []
    with joined(cuda=device_for(device).type == "cuda") as world, ExitStack() as ended:
        for number in range(seeds):
            run_dir = runs_dir / (run if seeds == 1 else f"{run}-seed{(seed or 0) + number}")
            if seeds > 1:
                chosen["seed"] = (seed or 0) + number
            run_dir = _here(run_dir, world, ended)
            about = run_directory.read(run_dir)
            config = _config(about, recipe, chosen)
            # One builds the cache; the others find it.
            if not world.leads:
                world.wait()
            cache = prepared(folder, config.image_size, cache_dir, leads=world.leads)
            if world.leads:
                world.wait()
            if batch_size == "auto" and about is not None:
                # What was found when it began: other parts would be another run.
                found = about["config"]["micro_batch_size"]
                config = config.with_overrides({"micro_batch_size": found})
            elif batch_size == "auto" and not config.micro_batch_size:
                from training.loop.batch_finder import find_micro_batch

                config = find_micro_batch(config, cache, device, world)
            if world.leads:
                say(f"run: {run_dir}")
            # From here on; until now there was nothing to save, and a signal ends it at once.
            stop = stop_on_signals()
            with tracked(run_dir, tensorboard=tensorboard) if world.leads else nullcontext():
                with progress("train") if world.leads else nullcontext(no_progress) as report:
                    result = train_run(
                        config, cache, run_dir, device=device, placement=placement_of(placement),
                        extend=extend, world=world, should_stop=stop.is_set, progress=report,
                    )  # fmt: skip
                if world.leads:
                    write_report(run_dir)
            results.append(result)
        if world.leads:
            show(results, as_json)


def _check(chosen: dict[str, object], recipe: str | None, run_dir: Path) -> None:
    """Refuse wrong settings before torch is loaded, as far as a run that exists may not mend them.

    Raises:
        ConfigError: A setting or the recipe is unknown, or out of range.
    """
    from training.config import require_settings

    require_settings(chosen)
    if bucket_url(run_dir) is None and not run_dir.exists():
        _config(None, recipe, chosen)


def _here(run_dir: Path, world: "World", ended: ExitStack) -> Path:
    """Return where the run lies on this machine; one that lives in a bucket is fetched, and kept.

    Of processes that train together the leader does so; others have copies on their machines.
    """
    from training.buckets import mirror

    if world.leads:
        run_dir = ended.enter_context(mirror.working_copy(run_dir, lost=ask_to_stop))
        world.wait()
    else:
        world.wait()
        run_dir = mirror.local_path(run_dir) if world.local_rank else mirror.pull(run_dir)
    world.wait()
    return run_dir


def show(results: "list[TrainResult]", as_json: bool) -> None:
    """Print one result, or several seeds' and their mean."""
    from training.evaluation.intervals import mean_interval

    if as_json and len(results) == 1:
        print_json(results[0].to_dict())
        return
    means = {"val_top1": mean_interval([result.val_top1 for result in results])}
    if tests := [result.test_top1 for result in results if result.test_top1 is not None]:
        means["test_top1"] = mean_interval(tests)
    if as_json:
        summed: dict[str, object] = {}
        for name, (mean, half) in means.items():
            summed |= {name: mean, f"{name}_half_interval": half}
        print_json({**summed, "runs": [result.to_dict() for result in results]})
        return
    rows: list[list[object]] = []
    for result in results:
        where = f"{result.run_dir}: " if len(results) > 1 else ""
        low, high = result.val_interval
        rows.append([
            f"{where}validation top-1, best epoch",
            f"{result.val_top1:.2%} (epoch {result.best_epoch}; 95 %: {low:.1%} to {high:.1%})",
        ])  # fmt: skip
        if result.test_top1 is not None and result.test_interval is not None:
            low, high = result.test_interval
            rows.append([
                f"{where}test top-1, the same epoch",
                f"{result.test_top1:.2%} (95 %: {low:.1%} to {high:.1%})",
            ])  # fmt: skip
    if len(results) > 1:
        for name, (mean, half) in means.items():
            what = f"{name.split('_')[0]} top-1, mean of {len(results)} seeds"
            rows.append([what.replace("val ", "validation "), f"{mean:.2%} ± {half:.2%} (95 %)"])
    else:
        rows.append(["calibration error", f"{result.ece_before:.3f}, {result.ece_after:.3f} with"
                     f" temperature {result.temperature}"])  # fmt: skip
        rows.append(["epochs", result.epochs])
    rows.append(["photos/s trained", f"{result.photos_per_s:.0f}"])
    rows.append(["run", results[-1].run_dir])
    print_table("Trained", ["what", "value"], rows)
    say(f"release it: hansang release {shell(results[-1].run_dir)}")


def _without_nproc(arguments: list[str], run: str) -> list[str]:
    """Return the arguments for each process: the verb and --nproc dropped, the run named."""
    kept, items = [], iter(arguments[1:] if arguments[:1] == ["train"] else arguments)
    for item in items:
        if item == "--nproc":
            next(items, None)
        elif not item.startswith("--nproc="):
            kept.append(item)
    named = any(item == "--run" or item.startswith("--run=") for item in kept)
    return kept if named else [*kept, "--run", run]


def _config(
    about: dict[str, Any] | None, recipe: str | None, overrides: dict[str, object]
) -> "TrainConfig":
    """Return the recipe's config; for a run that exists and no recipe given, the run's own."""
    from training.config import TrainConfig
    from training.recipes import recipe as recipe_of

    if about is not None and recipe is None:
        config = TrainConfig.from_dict(about["config"])
    else:
        config = recipe_of(recipe or "scratch")
    return config.with_overrides(overrides)
