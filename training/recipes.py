"""Recipes: named settings to start from, each with its command, its time and its result."""

import dataclasses
from collections.abc import Callable, Iterable

from training.config import AugmentConfig, OptimizerConfig, SchedulerConfig, TrainConfig
from training.errors import ConfigError
from training.setting_names import flatten, require_known


def scratch() -> TrainConfig:
    """Train ResNet18 from random weights, with the ingredients that helped on real photos.

    hansang train DATA --recipe scratch --epochs 50 --image-size 96
    # grocery42, seed 0: 72.3 % validation top-1 (900 of 1,244, epoch 50) in 17 minutes on one core
    # of an AMD EPYC; `baseline` has 39.7 %. 20 epochs at 64 px: 65.6 % over 3 seeds, 5 minutes each
    """
    return TrainConfig(
        batch_size=32,
        start_scale=0.667,
        optimizer=OptimizerConfig(lr=0.05, weight_decay=1e-3, ema=0.998),
        scheduler=SchedulerConfig(warmup_epochs=2),
        augment=AugmentConfig(
            sharp_crops=True,
            brightness=0.15,
            contrast=0.15,
            saturation=0.1,
            rotation=15,
            trivial=0.5,
            trivial_colours=False,
            erasing=0.25,
            off_share=0.1,
        ),
    )


def long() -> TrainConfig:
    """Train for many epochs: `scratch` with CutMix and mixup, which need them to pay off.

    hansang train DATA --recipe long --epochs 100 --image-size 64
    # grocery42, seed 0: 70.1 % validation top-1 (872 of 1,244, epoch 94), half an hour of one core
    # of an Intel Xeon with AMX, where `scratch` had 60.7 % after 20 epochs. The 200 epochs that it
    # has by default were not measured; at 50 CutMix and mixup cost accuracy
    # (docs/notes/experiments.md)
    """
    plain = scratch()
    return dataclasses.replace(
        plain,
        recipe="long",
        epochs=200,
        augment=dataclasses.replace(plain.augment, mixup=0.2, cutmix=1.0),
    )


def baseline() -> TrainConfig:
    """Train as the competition's given recipe did: nothing but SGD 0.001, batch 32, 50 epochs.

    hansang train DATA --recipe baseline --epochs 50 --image-size 96
    # grocery42, seed 0: 39.7 % validation top-1 (494 of 1,244, epoch 50), one core of an AMD EPYC
    """
    return TrainConfig(
        recipe="baseline",
        batch_size=32,
        label_smoothing=0,
        optimizer=OptimizerConfig(lr=0.001, momentum=0, weight_decay=0),
        scheduler=SchedulerConfig(name="none"),
        augment=AugmentConfig(crop_area=1, flip=0, brightness=0, contrast=0, saturation=0),
    )


def finetune() -> TrainConfig:
    """Train from the weights of another run: the settings that all strategies of finetune share.

    hansang finetune DATA --from runs/first --strategy auto
    # measured in docs/notes/experiments.md
    """
    plain = scratch()
    return dataclasses.replace(
        plain,
        recipe="finetune",
        epochs=30,
        start_scale=1.0,
        scheduler=dataclasses.replace(plain.scheduler, warmup_epochs=1),
        # What it was measured with; sharper crops and quieter colours were not.
        augment=dataclasses.replace(
            plain.augment,
            sharp_crops=False,
            brightness=0.3,
            contrast=0.3,
            saturation=0.3,
            trivial_colours=True,
        ),
    )


_LARGEST = 512
"""Photos in a step that GPUs are fast with."""
_STEPS = 64
"""Steps in an epoch that larger batches leave: 20 cost accuracy, and with 5 nothing is learnt."""


def in_large_batches(config: TrainConfig, num_photos: int) -> TrainConfig:
    """Return settings for a GPU, which is slow with small batches, for so many training photos.

    The batch doubles up to 512 while an epoch keeps 64 steps. The learning rate grows in proportion
    (Goyal et al. 2017), the warm-up stays in epochs, and the average of the weights spans as many
    epochs as before. Measured in docs/notes/experiments.md.
    """
    batch, optimizer = config.batch_size, config.optimizer
    while 2 * batch <= min(_LARGEST, num_photos // _STEPS):
        batch *= 2
    more = batch / config.batch_size
    return dataclasses.replace(
        config,
        batch_size=batch,
        optimizer=dataclasses.replace(optimizer, lr=optimizer.lr * more, ema=optimizer.ema**more),
    )


RECIPES: dict[str, Callable[[], TrainConfig]] = {
    "scratch": scratch,
    "long": long,
    "baseline": baseline,
    "finetune": finetune,
}


def recipe(name: str) -> TrainConfig:
    """Return a recipe by name.

    Raises:
        ConfigError: There is no such recipe; the message lists those that there are.
    """
    if name not in RECIPES:
        raise ConfigError(f"no recipe {name!r}; there are {', '.join(RECIPES)}")
    return RECIPES[name]()


def require_settings(names: Iterable[str]) -> None:
    """Check the names of settings, such as `optimizer.lr`.

    Raises:
        ConfigError: A name is unknown; the message names the most similar one, and all others.
    """
    require_known(names, list(flatten(TrainConfig().to_dict())))
