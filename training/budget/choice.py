"""Which side, batch and number of epochs promise most within a time: a pure function."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from training.budget.deadline import shown
from training.budget.frontier import MOST_EPOCHS, Curve
from training.config import TrainConfig
from training.errors import ConfigError

_AIM = 0.96
"""Part of the time that is planned with: a machine is never quite as free as it was measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Costs:
    """What a candidate takes on a device."""

    overrides: Mapping[str, Any]
    """Its settings, by dotted name: the side, the batch and what goes with it."""
    smallest_s: float
    """Seconds a photo that is trained at the side of the first epoch."""
    largest_s: float
    """Seconds a photo that is trained at the side of the last epoch."""
    val_s: float
    """Seconds a photo that is validated."""
    epoch_s: float
    """Seconds an epoch that no photo takes: its checkpoint."""
    once_s: float
    """Seconds that a run takes beside its epochs: decoding, the last evaluation, the report."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """What promises most, with what it takes."""

    config: TrainConfig
    run_s: float
    """Seconds that the run takes."""
    promise: float | None
    """Top-1 that the frontier has there, a fraction; None for a side that was not measured."""

    def __str__(self) -> str:
        config = self.config
        promise = "" if self.promise is None else f", {self.promise:.0%} on the groceries"
        return (
            f"{config.epochs} epoch{'s' * (config.epochs > 1)} at {config.image_size} px in batches"
            f" of {config.batch_size} ({shown(self.run_s)}{promise})"
        )


def epochs_s(config: TrainConfig, costs: Costs, num_train: int, num_val: int) -> float:
    """Return the seconds that all epochs of a run take, each with its validation."""
    low, high = config.size_at(0) ** 2, config.size_at(config.epochs) ** 2
    slope = (costs.largest_s - costs.smallest_s) / (high - low) if high > low else 0.0
    # What a photo costs is nearly a straight line over its pixels.
    photo_s = sum(
        costs.largest_s + slope * (config.size_at(epoch) ** 2 - high)
        for epoch in range(config.epochs)
    )
    return num_train * photo_s + (num_val * costs.val_s + costs.epoch_s) * config.epochs


def choose(
    config: TrainConfig, within_s: float, candidates: Iterable[Costs], curves: Sequence[Curve], *,
    num_train: int, num_val: int, epochs: int | None = None,
) -> tuple[Choice, list[Choice]]:  # fmt: skip
    """Return what promises most within the time, and the best of each other side.

    Args:
        config: The settings that all candidates share.
        within_s: Seconds from now on.
        candidates: Sides and batches, with what they take.
        curves: What sides promise; the promise counts photos seen, so it holds for any number.
        num_train: Photos of an epoch.
        num_val: Photos that are validated after each epoch.
        epochs: So many and no others; as many as fit without.

    Raises:
        ConfigError: Nothing fits; the message says how long the quickest takes.
    """
    by_side: dict[int, Choice] = {}
    quickest: Choice | None = None
    for costs in candidates:
        tried = config.with_overrides(costs.overrides)
        least = _with_epochs(tried, costs, epochs or 1, curves, num_train, num_val)
        if quickest is None or least.run_s < quickest.run_s:
            quickest = least
        if least.run_s > within_s:
            continue
        most = epochs or _most_epochs(tried, costs, within_s * _AIM, num_train, num_val)
        found = _with_epochs(tried, costs, most, curves, num_train, num_val)
        side = found.config.image_size
        if side not in by_side or _rank(found) > _rank(by_side[side]):
            by_side[side] = found
    if quickest is None:
        raise ConfigError("there is nothing to choose from")
    if not by_side:
        wanted = f"{quickest.config.epochs} epochs" if epochs else "one epoch"
        raise ConfigError(
            f"--within is too short: {shown(within_s)} are left after the look at the photos, and"
            f" {wanted} at {quickest.config.image_size} px take {shown(quickest.run_s)} on this"
            f" device; give more time{', fewer --epochs' if epochs else ''} or a smaller"
            " --image-size"
        )
    best, *others = sorted(by_side.values(), key=_rank, reverse=True)
    return best, others


def _rank(choice: Choice) -> tuple[float, int, float]:
    """Order choices: by their promise, then by epochs, then the quicker one first."""
    promise = 0.0 if choice.promise is None else round(choice.promise, 4)
    return promise, choice.config.epochs, -choice.run_s


def _most_epochs(
    config: TrainConfig, costs: Costs, within_s: float, num_train: int, num_val: int
) -> int:
    """Return the most epochs, from 1 to `MOST_EPOCHS`, that end within the time."""
    low, high = 1, MOST_EPOCHS
    while low < high:
        middle = (low + high + 1) // 2
        tried = config.with_overrides({"epochs": middle})
        if costs.once_s + epochs_s(tried, costs, num_train, num_val) <= within_s:
            low = middle
        else:
            high = middle - 1
    return low


def _with_epochs(
    config: TrainConfig, costs: Costs, epochs: int, curves: Sequence[Curve], num_train: int,
    num_val: int,
) -> Choice:  # fmt: skip
    config = config.with_overrides({"epochs": epochs})
    run_s = costs.once_s + epochs_s(config, costs, num_train, num_val)
    promises = [
        curve.promise(epochs * num_train)
        for curve in curves if curve.image_size == config.image_size
    ]  # fmt: skip
    return Choice(config=config, run_s=run_s, promise=promises[0] if promises else None)
