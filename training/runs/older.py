"""Runs that an older version began: which of them this version goes on with to the same bits."""

from collections.abc import Mapping
from typing import Any

from training.config import TrainConfig
from training.errors import RunError

FORMAT = 4
"""Of checkpoints, and of what a step is. A run goes on with the same format, or as said here."""


def require_same_steps(
    about: Mapping[str, Any], name: str, config: TrainConfig, step: int, steps_per_epoch: float
) -> None:
    """Refuse a run whose next steps would be others than those of the version that began it.

    Args:
        about: What its `config.json` holds.
        name: What an error calls it.
        config: Its settings.
        step: The step that it goes on at.
        steps_per_epoch: May be a fraction.

    Raises:
        RunError: It was begun by an older version, and the message says what was otherwise there.
    """
    there = about.get("format")
    if there == FORMAT:
        return
    warmup = config.scheduler.warmup_epochs * steps_per_epoch
    if there != 3:
        why = f"its format is {there}, and this version's is {FORMAT}"
    elif config.augment.cutmix:
        why = "CutMix drew other random numbers there"
    elif step <= warmup and warmup != int(warmup) and config.scheduler.name in ("step", "cosine"):
        why = "the last step of its warm-up lay above the peak there"
    else:
        return
    raise RunError(
        f"{name} was begun by another version of hansang: {why}. Finish it with that version, or"
        " begin it again under another --run"
    )
