"""`train`: a run from its first step to its last, through any number of deaths in between."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from terminal import Progress, no_progress, say
from training.config import TrainConfig
from training.data.cache import DatasetCache
from training.data.loader import Placement
from training.distributed.world import ALONE, World
from training.errors import RunError, SettingsError
from training.loop.finish import finish
from training.loop.run import Run
from training.model.device import device_of, out_of_memory
from training.model.pretrained import Start
from training.runs import run_directory
from training.runs.checkpoint import DamagedError
from training.runs.result import TrainResult

AfterEpoch = Callable[[Sequence[Mapping[str, Any]], Callable[[], float]], None]
"""Is given the lines of `metrics.jsonl`, and what returns the top-1 as if the run ended here."""


def train(
    config: TrainConfig,
    cache: DatasetCache,
    run_dir: Path,
    *,
    device: str = "auto",
    placement: Placement = "auto",
    extend: bool = False,
    start: Start | None = None,
    use_features: bool = True,
    world: World = ALONE,
    should_stop: Callable[[], bool] = lambda: False,
    after_epoch: AfterEpoch | None = None,
    progress: Progress = no_progress,
) -> TrainResult:
    """Train, or go on with the run that began in `run_dir`.

    With `extend`, a run that exists may be given more epochs; nothing else of it may change.
    `start` gives the weights that `config.transfer` names. Without `use_features`, parts that are
    frozen are computed at each step, for the same result in more time. `after_epoch` is called when
    an epoch's checkpoint is saved, and once when a run goes on; what it raises ends the run there,
    and it can go on later.

    Raises:
        StoppedError: `should_stop` said so; a checkpoint was saved.
        DivergedError: The loss is not finite.
        RunError: The directory is in use, of another run, or not writable; the device has too
            little memory.
        ConfigError: The device cannot be had, or the batch not be shared by the processes.
    """

    def to_the_end() -> TrainResult:
        about = None
        if world.leads:
            cores = len(os.sched_getaffinity(0))
            about = run_directory.open_or_create(
                run_dir, config, cache, config.threads or max(cores // world.size, 1),
                extend=extend, start=None if start is None else start.about,
            )  # fmt: skip
        about = world.share(about)
        # Sums on a CPU depend on the number of threads: a resumed run keeps its own.
        torch.set_num_threads(about["threads"])
        where = device_of(device, world.local_rank)
        run = Run(
            config, cache, run_dir, where, placement, start, use_features, world, should_stop,
            progress,
        )  # fmt: skip
        run.resume()
        if run.history and after_epoch is not None:
            after_epoch(run.history, run.as_if_ended)
        while run.unfinished:
            run.train_epoch()
            run.end_epoch()
            if after_epoch is not None:
                after_epoch(run.history, run.as_if_ended)
        return finish(run)

    with run_directory.locked(run_dir, world.leads):
        try:
            try:
                return to_the_end()
            except DamagedError as error:
                if world.leads:
                    say(f"warning: {error}; the best epoch is trained again")
            # Once: what is damaged again and again is for people. Here the first run is forgotten.
            return to_the_end()
        except torch.OutOfMemoryError as error:
            each = config.micro_batch_size or config.batch_size
            raise SettingsError(out_of_memory(config.batch_size, each)) from error
        except OSError as error:
            raise RunError(
                f"{run_dir} cannot be written: {error.strerror or error}; free some space or mend"
                " the folder, and run the same command again: it goes on from the last checkpoint"
            ) from error
