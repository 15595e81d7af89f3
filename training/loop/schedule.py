"""The learning rate as a function of the step, so that a resumed run has nothing to restore."""

import math
from collections.abc import Sequence

from training.config import TrainConfig


def learning_rate(
    config: TrainConfig, step: float, steps_per_epoch: float, val_losses: Sequence[float] = ()
) -> float:
    """Return the learning rate of a step (from 0).

    Args:
        config: The settings of the run.
        step: The step; a fraction lies between two steps.
        steps_per_epoch: May be a fraction, too.
        val_losses: The validation losses of the epochs before; only `plateau` reads them.
    """
    scheduler, peak = config.scheduler, config.optimizer.lr
    total = config.epochs * steps_per_epoch
    warmup = min(scheduler.warmup_epochs * steps_per_epoch, total / 2)
    if scheduler.name == "none":
        return peak
    if scheduler.name == "plateau":
        return peak * scheduler.gamma ** _drops(val_losses, scheduler.step_epochs)
    if scheduler.name == "onecycle":
        return _one_cycle(peak, step / total)
    if step < warmup:
        # The last step of a warm-up that is no whole number of steps would lie above the peak.
        return peak * min((step + 1) / warmup, 1.0)
    if scheduler.name == "step":
        return peak * scheduler.gamma ** int(step / (scheduler.step_epochs * steps_per_epoch))
    # Cosine annealing without restarts (Loshchilov and Hutter 2017).
    progress = (step - warmup) / max(total - warmup, 1)
    return peak * (1 + math.cos(math.pi * progress)) / 2


def _one_cycle(peak: float, progress: float) -> float:
    """Rise from peak/25 for 30 % of the run, then fall to peak/250,000, by cosines (Smith 2018)."""
    if progress < 0.3:
        low, high, share = peak / 25, peak, progress / 0.3
    else:
        low, high, share = peak / 250_000, peak, 1 - (progress - 0.3) / 0.7
    return low + (high - low) * (1 - math.cos(math.pi * share)) / 2


def _drops(val_losses: Sequence[float], patience: int) -> int:
    """Return how often the loss did not improve for more than `patience` epochs."""
    best, bad, drops = math.inf, 0, 0
    for loss in val_losses:
        if loss < best:
            best, bad = loss, 0
            continue
        bad += 1
        if bad > patience:
            drops, bad = drops + 1, 0
    return drops
