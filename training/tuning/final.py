"""The winner of a search, trained for longer, beside the recipes with the same epochs and seeds."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from terminal import Progress, no_progress
from training.ablation.arms import Arm, train_arms
from training.config import TrainConfig
from training.data.cache import DatasetCache
from training.evaluation.intervals import mean_interval
from training.reports.gain import Gain, gain
from training.runs.run_directory import read
from training.runs.run_record import RunRecord
from training.tuning.search import Outcome, best_run
from training.tuning.study import Study


@dataclass(frozen=True, kw_only=True, slots=True)
class Over:
    """The winner's gain over a recipe with the same epochs and seeds."""

    recipe: str
    val: Gain
    test: Gain | None
    """None without a test split."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Final:
    """The final runs of the winner."""

    trial: int
    epochs: int
    val_top1: float
    """Mean over the seeds of the best epoch's, as a fraction."""
    half_interval: float
    test_top1: float | None
    """Mean over the seeds, of the same epochs; None without a test split, which chose nothing."""
    over: tuple[Over, ...]
    """Gains over the study's recipes, the baseline first; without the winner itself."""
    runs: tuple[str, ...]
    """The winner's run directories, one for each seed."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return dataclasses.asdict(self)


def stretched(config: TrainConfig, epochs: int) -> TrainConfig:
    """Return a config for another number of epochs; settings in epochs change in proportion."""
    times = epochs / config.epochs
    scheduler = config.scheduler
    return dataclasses.replace(
        config, epochs=epochs,
        scheduler=dataclasses.replace(
            scheduler, step_epochs=max(round(scheduler.step_epochs * times), 1)
        ),
    )  # fmt: skip


def train_final(
    study: Study, cache: DatasetCache, *, epochs: int, seeds: Sequence[int], device: str = "auto",
    accept_changes: bool = False, should_stop: Callable[[], bool] = lambda: False,
    progress: Progress = no_progress,
) -> Final | None:  # fmt: skip
    """Train the best trial's settings and the recipes; None if no trial is complete.

    Args:
        study: The study; its folder gets the runs.
        cache: The photos.
        epochs: Of each run. The winner's schedule is stretched to them.
        seeds: Of each way of training; they must be others than the search's.
        device: `auto`, `cuda` or `cpu`.
        accept_changes: Go on with runs that began on another device or the like.
        should_stop: Is asked after each batch.
        progress: Is called with epochs.

    Raises:
        StoppedError: `should_stop` said so; the same call goes on.
    """
    found: tuple[Outcome, Path] | None = best_run(study.optuna, study.folder)
    if found is None:
        return None
    winner, run_dir = found
    about = read(run_dir)
    if about is None:
        return None
    config = TrainConfig.from_dict(about["config"])
    name = f"final-trial{winner.number}-{epochs}epochs"
    recipes = {
        recipe: f"{recipe}-{epochs}epochs"
        for recipe in study.plan.recipes
        if recipe != winner.recipe
    }
    arms = [
        *(
            Arm(arm, recipe, dataclasses.replace(
                study.plan.base(recipe), epochs=epochs, threads=config.threads))
            for recipe, arm in recipes.items()
        ),
        Arm(name, "the winner", stretched(config, epochs)),
    ]  # fmt: skip
    runs = train_arms(
        arms, cache, study.folder, seeds, device=device, accept_changes=accept_changes,
        should_stop=should_stop, progress=progress,
    )  # fmt: skip
    records = [RunRecord.open(run) for run in runs[name]]
    mean, half = mean_interval([record.best["val_top1"] for record in records])
    tests = [(record.result or {}).get("test_top1") for record in records]
    known = [value for value in tests if value is not None]
    over = []
    for recipe, arm in recipes.items():
        val = gain(runs[arm], runs[name])
        if val is not None:
            over.append(Over(recipe=recipe, val=val, test=gain(runs[arm], runs[name], "test")))
    return Final(
        trial=winner.number, epochs=epochs, val_top1=mean, half_interval=half,
        test_top1=sum(known) / len(known) if known else None, over=tuple(over),
        runs=tuple(str(run) for run in runs[name]),
    )  # fmt: skip
