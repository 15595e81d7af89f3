"""Recipes: named starting points. Each says its command, its time and its measured result."""

from collections.abc import Callable

from training.config import AugmentConfig, OptimizerConfig, SchedulerConfig, TrainConfig
from training.errors import ConfigError


def scratch() -> TrainConfig:
    """Train ResNet18 from random weights, with what was found to help.

    hansang train DATA --recipe scratch --epochs 20 --image-size 64
    # grocery42, seed 0: 62.1 % validation top-1 in 8 minutes on 2 cores of an AMD EPYC
    """
    return TrainConfig()


def baseline() -> TrainConfig:
    """Train as the competition's given recipe did: nothing but SGD 0.001, batch 32, 50 epochs.

    hansang train DATA --recipe baseline
    """
    return TrainConfig(
        recipe="baseline",
        batch_size=32,
        label_smoothing=0,
        optimizer=OptimizerConfig(lr=0.001, momentum=0, weight_decay=0),
        scheduler=SchedulerConfig(name="none"),
        augment=AugmentConfig(crop_area=1, flip=0, brightness=0, contrast=0, saturation=0),
    )


RECIPES: dict[str, Callable[[], TrainConfig]] = {"scratch": scratch, "baseline": baseline}


def recipe(name: str) -> TrainConfig:
    """Return a recipe by name.

    Raises:
        ConfigError: There is none; those that there are, are listed.
    """
    if name not in RECIPES:
        raise ConfigError(f"no recipe {name!r}; there are {', '.join(RECIPES)}")
    return RECIPES[name]()
