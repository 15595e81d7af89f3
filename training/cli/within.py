"""`--within`: when the runs of a command are to be ended, and what is chosen for that time."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.budget.deadline import Deadline
    from training.config import TrainConfig
    from training.data.dataset import PhotoFolder
    from training.errors import DataError


def deadline_of(
    within: str | None, *, extend: bool, nproc: int, num_runs: int
) -> "Deadline | None":
    """Return when so many runs are to be ended, or None without `--within`.

    Raises:
        ConfigError: It is no duration, or does not go with another option.
    """
    if within is None:
        return None
    from training.budget.deadline import Deadline
    from training.errors import ConfigError

    if extend:
        raise ConfigError("--within begins a run, and --extend goes on with one: leave one out")
    if nproc > 1 or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            "--within measures the steps of one process: leave out --nproc or torchrun, or give"
            " --epochs and --image-size in its place"
        )
    return Deadline.of(within, num_runs)


def chosen_for(
    deadline: "Deadline", config: "TrainConfig", given: Mapping[str, Any],
    photos: "PhotoFolder | DataError", device: str, *, exists: bool,
) -> dict[str, Any]:  # fmt: skip
    """Return the settings that are chosen for the time; of a run that exists, its own.

    Args:
        deadline: When the run is to be ended.
        config: The recipe with what was given; or what the run that exists began with.
        given: What was given, by dotted name.
        photos: What it learns from, or why nothing can be made of them.
        device: `auto`, `cuda` or `cpu`.
        exists: Whether the run began before.

    Raises:
        ConfigError: No epoch fits the time.
        DataError: There is nothing to learn from.
    """
    from training.budget.plan import chosen_settings, planned
    from training.model.device import device_for

    if exists:
        return chosen_settings(config)
    if isinstance(photos, Exception):
        raise photos
    return chosen_settings(planned(config, given, photos, device_for(device), deadline))
