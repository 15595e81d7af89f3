"""`--batch-size auto`: the largest micro-batch that fits the device's memory, found by trying."""

import dataclasses
import gc

import numpy as np
import torch

from terminal import say
from training.config import TrainConfig
from training.data.augment_parameters import sample_parameters
from training.data.cache import DatasetCache, Split
from training.data.loader import loader_for, resident_bytes
from training.distributed.world import World
from training.loop.batches import require_pairs
from training.loop.learner import EVALUATION_BATCH, Learner, StepData
from training.model.device import device_for, largest_micro_batch


def find_micro_batch(
    config: TrainConfig, cache: DatasetCache, device_name: str, world: World
) -> TrainConfig:
    """Return the config with the largest micro-batch that fits: the whole batch, its half, ….

    Every process tries, and all take the smallest that one of them found.

    Raises:
        RunError: Not even two photos fit.
        ConfigError: The processes cannot share the batch, see `require_pairs`.
    """
    require_pairs(config, config.batch_size, world)
    device = device_for(device_name, world.local_rank)

    def fits(size: int) -> bool:
        out_of_memory = _runs_out_of_memory(config, cache, device, size)
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        return not world.any(out_of_memory)

    # A run places the photos on the device first, so their memory is taken here, too.
    learnt_from = cache.splits["train"].to_learn_from(config.augment)
    resident = sum(resident_bytes(split, device) for split in (learnt_from, cache.splits["val"]))
    held = torch.empty(resident, dtype=torch.uint8, device=device)
    part = world.part(config.batch_size)
    micro_batch_size = largest_micro_batch(part.stop - part.start, fits) * world.size
    del held
    if micro_batch_size == config.batch_size:
        return config
    if world.leads:
        say(f"batch: {config.batch_size} photos, {micro_batch_size} at a time")
    return dataclasses.replace(config, micro_batch_size=micro_batch_size)


def _runs_out_of_memory(
    config: TrainConfig, cache: DatasetCache, device: torch.device, size: int
) -> bool:
    """Try a step of `size` black photos, and the validation that a run with this size has."""
    side = cache.splits["train"].to_learn_from(config.augment).images.shape[1]
    # Alone: a process that runs out of memory must not leave the others waiting for gradients.
    trial = dataclasses.replace(
        config, batch_size=size, micro_batch_size=size, compile="off", start_scale=1.0
    )
    blank = np.zeros((min(size, EVALUATION_BATCH), side, side, 3), np.uint8)
    val = Split(blank, np.zeros(len(blank), np.int64), ("",) * len(blank))
    try:
        learner = Learner(trial, len(cache.labels), device)
        data = StepData(
            torch.zeros(size, side, side, 3, dtype=torch.uint8, device=device),
            torch.zeros(size, dtype=torch.int64, device=device),
            sample_parameters(size, trial.augment, seed=0, step=0),
            size=trial.size_at(trial.epochs),
        )
        learner.step(data, lr=0.0)
        learner.evaluate(loader_for(val, device))
    except RuntimeError as error:
        # With too little memory cuDNN may find no algorithm, and says so in its own words.
        if isinstance(error, torch.OutOfMemoryError) or "unable to find" in str(error):
            return True
        raise
    return False
