"""`train`: a run from its first step to its last, continued after any number of kills."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from machine import free_cores, num_cores
from terminal import Progress, no_progress, say
from training.config import TrainConfig
from training.data.cache import DatasetCache
from training.data.loader import Placement
from training.distributed.world import ALONE, World
from training.errors import RunError, SettingsError
from training.loop.finish import finish
from training.loop.run import Run
from training.model.compiling import compiled_as
from training.model.device import computing, device_for, out_of_memory
from training.model.pretrained import Start
from training.runs import run_directory
from training.runs.checkpoint import DamagedError
from training.runs.result import TrainResult

_ROUGH = 16
"""Photos of a process's micro-batch below which people are warned of BatchNorm's statistics."""
AfterEpoch = Callable[[Sequence[Mapping[str, Any]], Callable[[], float]], None]
"""Is given the lines of `metrics.jsonl`, and a function that returns the annealed preview."""


def train(
    config: TrainConfig,
    cache: DatasetCache,
    run_dir: Path,
    *,
    device: str = "auto",
    placement: Placement = "auto",
    extend: bool = False,
    accept_changes: bool = False,
    start: Start | None = None,
    use_features: bool = True,
    world: World = ALONE,
    should_stop: Callable[[], bool] = lambda: False,
    after_epoch: AfterEpoch | None = None,
    progress: Progress = no_progress,
) -> TrainResult:
    """Train in `run_dir`, or continue the run that began there.

    Args:
        config: The settings; of a run that exists, the same that it began with.
        cache: The photos.
        run_dir: The run directory; made if it is not there.
        device: `auto`, `cuda` or `cpu`.
        placement: Where the photos lie, see `training/data/loader.py`.
        extend: Allow a run that exists more epochs than it began with.
        accept_changes: Allow a run that exists another device, number of threads, version of torch
            or the like than it began with, and note it; it then ends with other bits.
        start: The weights that `config.transfer` names.
        use_features: Keep the output of frozen parts instead of computing it at each step; the
            result is the same.
        world: The processes that train this run together.
        should_stop: Is asked after each batch; the run then saves a checkpoint and stops.
        after_epoch: Is called after each epoch's save, and once when a run continues. What it
            raises ends the run there, and the run can continue later.
        progress: Is called with steps.

    Raises:
        StoppedError: `should_stop` said so; a checkpoint is saved.
        DivergedError: The loss or a weight is not finite.
        SettingsError: The batch does not fit the device's memory.
        RunError: The directory is in use, holds another run or one that would go on to other bits,
            or cannot be written.
        ConfigError: The device is not available, or the processes cannot share the batch equally.
    """
    attempt = partial(
        _train_to_the_end, config, cache, run_dir, device, after_epoch,
        extend=extend, accept_changes=accept_changes, placement=placement, start=start,
        use_features=use_features, world=world, should_stop=should_stop, progress=progress,
    )  # fmt: skip
    with run_directory.locked(run_dir, world.leads), _explaining_failures(config, run_dir):
        try:
            return attempt()
        except DamagedError as error:
            if world.leads:
                say(f"warning: {error}; the best epoch is trained again")
        # Once more; a checkpoint that is damaged again points at the disk, and is an error. Outside
        # of the handler, whose traceback would keep the first run's memory.
        return attempt()


def _train_to_the_end(
    config: TrainConfig, cache: DatasetCache, run_dir: Path, device: str,
    after_epoch: AfterEpoch | None, *, extend: bool, accept_changes: bool, start: Start | None,
    world: World, **options: Any,
) -> TrainResult:  # fmt: skip
    """Resume or begin, train every epoch that is left, and finish."""
    where = device_for(device, world.local_rank)
    about = None
    if world.leads:
        before = run_directory.read(run_dir) or {}
        # Sums on a CPU depend on the number of threads: a run that goes on keeps its own.
        threads = config.threads or before.get("threads") or threads_for(world.size)
        compiled = compiled_as(
            config, where, len(cache.splits["train"].targets), world.size,
            before=before.get("computing", {}),
        )  # fmt: skip
        about = run_directory.open_or_create(
            run_dir, config, cache, computing(config, where, threads, world.size, compiled),
            extend=extend, accept_changes=accept_changes,
            start=None if start is None else start.about,
        )  # fmt: skip
    about = world.share(about)
    torch.set_num_threads(about["threads"])
    if world.leads:
        _warn_of_few(config, world.size)
    config = dataclasses.replace(config, compile=about["computing"]["compiled"])
    run = Run(config, cache, run_dir, where, start=start, world=world, **options)
    with run.writer:
        run.resume()
        if run.history and after_epoch is not None:
            after_epoch(run.history, run.annealed_preview)
        while run.unfinished:
            run.train_epoch()
            run.end_epoch()
            if after_epoch is not None:
                after_epoch(run.history, run.annealed_preview)
        return finish(run)


def _warn_of_few(config: TrainConfig, processes: int) -> None:
    """Say so if BatchNorm sees few photos at a time."""
    at_a_time = config.micro_batch_size or config.batch_size
    together = at_a_time if config.sync_batchnorm else at_a_time // processes
    if together < _ROUGH:
        shared = processes > 1 and not config.sync_batchnorm
        say(
            f"warning: BatchNorm takes its statistics from {together} photos at a time, which is"
            f" rough below {_ROUGH}; take a larger --batch-size"
            f"{', fewer processes, or --sync-batchnorm' if shared else ''}"
        )


def threads_for(processes: int) -> int:
    """Return the CPU threads of each process of a new run: one for each core that nobody uses.

    Threads wait for each other after every operation. One that must share its core with another
    program makes all of them as slow as itself (docs/notes/benchmarks.md).
    """
    free, cores = free_cores(), num_cores()
    if free < cores:
        say(
            f"threads: {max(free // processes, 1)}, since other programs compute on"
            f" {cores - free} of {cores} cores; --threads sets another number"
        )
    return max(free // processes, 1)


@contextmanager
def _explaining_failures(config: TrainConfig, run_dir: Path) -> Iterator[None]:
    """Turn a full memory and a failing disk into errors that say what to do."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        micro_batch_size = config.micro_batch_size or config.batch_size
        raise SettingsError(out_of_memory(config.batch_size, micro_batch_size)) from error
    except OSError as error:
        raise RunError(
            f"{run_dir} cannot be written: {error.strerror or error}; free some space or mend"
            " the folder, and run the same command again: it goes on from the last checkpoint"
        ) from error
