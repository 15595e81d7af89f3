"""What steps, validation and decoding take on this device, measured for some seconds."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from machine import num_cores
from service.pixels.preprocessing import load_square, resize_size
from training.budget.choice import Costs
from training.config import TrainConfig
from training.data.augment_parameters import sample_parameters
from training.data.cache import Split, crops_side
from training.data.loader import loader_for
from training.loop.learner import Learner, StepData
from training.loop.saving import copied, write
from training.loop.state import tensors_of

_SAMPLE = 64
"""Photos that are decoded to know what decoding takes."""
_REPORT_S = 8.0
"""Seconds that the plots and the page of a report take on one core (docs/notes/benchmarks.md)."""


def measured(
    config: TrainConfig, num_classes: int, device: torch.device, overrides: dict[str, Any], *,
    once_s: float, num_held_out: int, for_s: float,
) -> Costs:  # fmt: skip
    """Measure a candidate by steps and a validation of random photos.

    Args:
        config: The settings that all candidates share.
        num_classes: Classes of the data.
        device: Where it runs.
        overrides: The side, the batch and what goes with it.
        once_s: Seconds that a run with these settings takes before and after its epochs, without
            the last evaluation.
        num_held_out: Photos of validation and test, which the last evaluation sees.
        for_s: Seconds that steps of one kind are repeated for, once they are warm.
    """
    tried = config.with_overrides({"compile": "off", **overrides})
    learner = Learner(tried, num_classes, device)
    split = _noise(tried, num_classes)
    images = torch.from_numpy(split.to_learn_from(tried.augment).images).to(device)
    goals = torch.from_numpy(split.targets).to(device)

    def photo_s(size: int) -> float:
        parameters = sample_parameters(tried.batch_size, tried.augment, seed=0, step=0)
        data = StepData(images, goals, parameters, size=size)

        def step() -> None:
            learner.step(data, lr=1e-4).item()
            learner.update_average(0)

        return _mean_s(step, for_s) / tried.batch_size

    smallest_s, largest_s = photo_s(tried.size_at(0)), photo_s(tried.size_at(tried.epochs))
    loader = loader_for(split, device)
    val_s = _mean_s(lambda: learner.evaluate(loader), for_s) / tried.batch_size
    return Costs(
        overrides=overrides, smallest_s=smallest_s, largest_s=largest_s, val_s=val_s,
        epoch_s=_save_s(learner),
        once_s=once_s + _REPORT_S + num_held_out * val_s,
    )  # fmt: skip


def _noise(config: TrainConfig, num_classes: int) -> Split:
    """Return a batch of random photos, as a cache would hold them."""
    random, batch = np.random.default_rng(0), config.batch_size
    sides = (resize_size(config.image_size), crops_side(config.image_size))
    squares, crops = (
        random.integers(0, 256, (batch, side, side, 3), dtype=np.uint8) for side in sides
    )
    targets = random.integers(0, num_classes, batch)
    return Split(squares, targets, ("",) * batch, crops=crops)


def _save_s(learner: Learner) -> float:
    """Return the seconds that a checkpoint takes, as `Run` writes it at the end of an epoch."""
    started_s = time.perf_counter()
    with TemporaryDirectory() as folder:
        (Path(folder) / "checkpoints").mkdir()
        write(Path(folder), 0, copied(tensors_of(learner)), {"epoch": 0, "history": []})
    return time.perf_counter() - started_s


def decode_s(photos: Sequence[Path], image_size: int) -> float:
    """Return the seconds that a cache of photos takes, on all cores of this machine.

    Some of them are decoded to know it, twice, since those of train are kept at two sides. Photos
    that cannot be read cost nothing.
    """
    step = max(len(photos) // _SAMPLE, 1)
    chosen = photos[::step][:_SAMPLE]
    started_s = time.perf_counter()
    for path in chosen:
        try:
            data = path.read_bytes()
            for side in (resize_size(image_size), crops_side(image_size)):
                load_square(data, side)
        except (OSError, ValueError):
            continue
    return (time.perf_counter() - started_s) * len(photos) / max(len(chosen), 1) / num_cores()


def _mean_s(work: Callable[[], object], for_s: float) -> float:
    """Return the mean seconds of a piece of work, repeated for so long once it is warm."""
    work()
    count, started_s = 0, time.perf_counter()
    while count == 0 or time.perf_counter() - started_s < for_s:
        work()
        count += 1
    return (time.perf_counter() - started_s) / count
