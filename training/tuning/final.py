"""The winner of a study, trained for longer, against the recipes at the same budget."""

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
    """What the winner gained over a recipe that was trained for as long, with the same seeds."""

    recipe: str
    val: Gain
    test: Gain | None
    """None without a test split."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Final:
    """What the winner reached."""

    trial: int
    epochs: int
    val_top1: float
    """Mean over the seeds of the best epoch's, as a fraction."""
    half_interval: float
    test_top1: float | None
    """Mean over the seeds, of the same epochs; the test split chose nothing. None without one."""
    over: tuple[Over, ...]
    """The recipes that the study began with, the baseline first; without the winner's own."""
    runs: tuple[str, ...]
    """Of the winner, a run for each seed."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return dataclasses.asdict(self)


def stretched(config: TrainConfig, epochs: int) -> TrainConfig:
    """Return a config for another number of epochs: drops and last epochs move in proportion."""
    times = epochs / config.epochs
    scheduler, augment = config.scheduler, config.augment
    return dataclasses.replace(
        config, epochs=epochs,
        scheduler=dataclasses.replace(
            scheduler, step_epochs=max(round(scheduler.step_epochs * times), 1)
        ),
        augment=dataclasses.replace(augment, off_epochs=round(augment.off_epochs * times)),
    )  # fmt: skip


def train_final(
    study: Study, cache: DatasetCache, *, epochs: int, seeds: Sequence[int], device: str = "auto",
    should_stop: Callable[[], bool] = lambda: False, progress: Progress = no_progress,
) -> Final | None:  # fmt: skip
    """Train the best trial's settings and the recipes; None if no trial came to its end.

    The winner's schedule is stretched; the recipes are as they are at so many epochs. `seeds` must
    not have chosen the winner.

    Each run keeps its best epoch; the same call goes on with what was stopped.

    Raises:
        StoppedError: `should_stop` said so.
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
        arms, cache, study.folder, seeds, device=device, should_stop=should_stop, progress=progress
    )
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
