"""`hansang train`, which is also `python -m training`."""

import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from terminal import print_json, print_table, progress, say, settings

if TYPE_CHECKING:
    from training.config import TrainConfig


def train(
    data: Annotated[
        Path, typer.Argument(help="train/ val/ (test/) of class folders, or class folders alone.")
    ],
    recipe: Annotated[
        str | None, typer.Option(help="scratch or baseline.", show_default="scratch")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs.", show_default="the recipe's")
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(min=32, max=512, help="Side in pixels.", show_default="the recipe's"),
    ] = None,
    run: Annotated[
        str | None, typer.Option(help="Run ID; a run that exists goes on.", show_default="new")
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting, e.g. optimizer.lr=0.02."),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed.", show_default="0")] = None,
    device: Annotated[str, typer.Option(help="auto, cuda or cpu.")] = "auto",
    threads: Annotated[
        int | None, typer.Option(min=0, help="CPU threads.", show_default="all cores")
    ] = None,
    runs_dir: Annotated[Path, typer.Option(help="Where runs lie.")] = Path("runs"),
    cache_dir: Annotated[Path, typer.Option(help="Where dataset caches lie.")] = Path("cache"),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON on stdout.")
    ] = False,
    stop_with_parent: Annotated[
        bool, typer.Option(hidden=True, help="Stop when standard input ends.")
    ] = False,
) -> None:
    """Train ResNet18 on a folder of photos, or go on with a run.

    A run that was stopped or killed at any step goes on when the same command is given again, and
    ends with the very weights of one never stopped. SIGTERM saves a checkpoint and exits with 75.

    Example: hansang train photos --run first --epochs 20 --image-size 64
    """
    if stop_with_parent:
        threading.Thread(target=_stop_at_end_of_input, daemon=True).start()
    from training.cache import prepare
    from training.trainer import train as train_run

    run_dir = runs_dir / (run or _new_id(data, recipe))
    chosen = {
        "epochs": epochs, "image_size": image_size, "seed": seed, "threads": threads,
    }  # fmt: skip
    overrides = {name: value for name, value in chosen.items() if value is not None}
    config = _config(run_dir, recipe, {**overrides, **settings(setting or [])})
    with progress("prepare") as report:
        cache = prepare(data, config.image_size, cache_root=cache_dir, progress=report)
    for path, reason in cache.bad_files.items():
        say(f"left out: {path}: {reason}")
    say(f"run: {run_dir}")
    # From here on; until now there was nothing to save, and a signal ends the process at once.
    stop = _stop_on_signals()
    with progress("train") as report:
        result = train_run(
            config, cache, run_dir, device=device, should_stop=stop.is_set, progress=report
        )
    if as_json:
        print_json(result.to_dict())
        return
    rows: list[list[object]] = [
        ["validation top-1, best epoch", f"{result.val_top1:.2%} (epoch {result.best_epoch})"],
        ["epochs", result.epochs],
        ["photos/s trained", f"{result.photos_per_s:.0f}"],
        ["run", run_dir],
    ]
    if result.test_top1 is not None:
        rows.insert(1, ["test top-1, the same epoch", f"{result.test_top1:.2%}"])
    print_table("Trained", ["what", "value"], rows)
    say(f"release it: hansang release {run_dir}")


def _config(run_dir: Path, recipe: str | None, overrides: dict[str, object]) -> "TrainConfig":
    """Return the recipe's config; for a run that exists and no recipe given, the run's own."""
    from training import run_directory
    from training.config import TrainConfig
    from training.recipes import recipe as recipe_of

    about = run_directory.read(run_dir)
    if about is not None and recipe is None:
        config = TrainConfig.from_dict(about["config"])
    else:
        config = recipe_of(recipe or "scratch")
    return config.with_overrides(overrides)


def _new_id(data: Path, recipe: str | None) -> str:
    from datetime import datetime

    return f"{data.resolve().name}-{recipe or 'scratch'}-{datetime.now():%Y%m%d-%H%M%S}"


def _stop_on_signals() -> threading.Event:
    """Return an event that SIGTERM and Ctrl-C set; a second Ctrl-C interrupts at once."""
    stop = threading.Event()

    def handle(number: int, frame: object) -> None:  # noqa: ARG001
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)
    return stop


def _stop_at_end_of_input() -> None:
    # Whoever started this process holds the other end; when it dies, by SIGKILL too, input ends.
    # Read without Python's buffer, whose lock a thread must not hold when the process ends.
    while os.read(0, 1024):
        pass
    # Nobody reads any more what is printed, and a broken pipe must not cost the checkpoint.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.kill(os.getpid(), signal.SIGTERM)
