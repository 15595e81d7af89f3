"""How many photos a device can take at a time."""

import dataclasses
import gc

import torch

from terminal import say
from training.config import TrainConfig
from training.data.augmentation import draw
from training.data.cache import DatasetCache
from training.data.loader import resident_bytes
from training.distributed.world import World
from training.loop.step import Engine
from training.model.device import device_of, largest_micro_batch


def find_micro_batch(
    config: TrainConfig, cache: DatasetCache, device: str, world: World
) -> TrainConfig:
    """Return the config with the largest micro-batch whose step the device has memory for.

    Found by trying: a step of the whole batch, then of its half, and so on.

    Raises:
        RunError: Not even two photos fit.
    """
    where = device_of(device, world.local_rank)
    side = cache.splits["train"].images.shape[1]

    def fits(size: int) -> bool:
        # Each process alone: they agree on the smallest afterwards.
        trial = dataclasses.replace(
            config, batch_size=size, micro_batch_size=0, compile="off", start_scale=1.0
        )
        too_large = False
        try:
            engine = Engine(trial, len(cache.labels), where)
            images = torch.zeros(size, side, side, 3, dtype=torch.uint8, device=where)
            engine.step(
                images, torch.zeros(size, dtype=torch.int64, device=where),
                draw(size, trial.augment, seed=0, step=0),
                size=trial.size_at(trial.epochs), lr=0.0,
            )  # fmt: skip
            del engine, images
        except RuntimeError as error:
            # cuDNN says it in its own words, where no engine is left for the little memory.
            if not (isinstance(error, torch.OutOfMemoryError) or "unable to find" in str(error)):
                raise
            too_large = True
        gc.collect()
        if where.type == "cuda":
            torch.cuda.empty_cache()
        return not world.any(too_large)

    # The photos that will lie on the device take their place first.
    placed = sum(resident_bytes(cache.splits[name], where) for name in ("train", "val"))
    held = torch.empty(placed, dtype=torch.uint8, device=where)
    share = world.part(config.batch_size)
    each = largest_micro_batch(share.stop - share.start, fits) * world.size
    del held
    if each == config.batch_size:
        return config
    if world.leads:
        say(f"batch: {config.batch_size} photos, {each} at a time")
    return dataclasses.replace(config, micro_batch_size=each)
