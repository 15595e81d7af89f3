"""`--within`: a run's settings, chosen once for the time that it is given."""

from collections.abc import Mapping
from typing import Any

import torch

from terminal import say
from training.budget.choice import Costs, choose
from training.budget.costs import decode_s, measured
from training.budget.deadline import Deadline, shown
from training.budget.frontier import MOST_EPOCHS, frontier
from training.config import TrainConfig
from training.data.dataset import PhotoFolder
from training.loop.trainer import threads_for
from training.recipes import in_large_batches
from training.setting_names import flatten

_CHOSEN = (
    "image_size", "epochs", "batch_size", "optimizer.lr", "optimizer.ema", "threads",
)  # fmt: skip
_WORTH = 1.15
"""So many times as fast a larger batch must be: it takes fewer steps."""


def chosen_settings(config: TrainConfig) -> dict[str, Any]:
    """Return what a plan decided, by dotted name; a run that goes on keeps its own."""
    values = flatten(config.to_dict())
    return {name: values[name] for name in _CHOSEN}


def planned(
    config: TrainConfig, given: Mapping[str, Any], photos: PhotoFolder, device: torch.device,
    deadline: Deadline,
) -> TrainConfig:  # fmt: skip
    """Return the config with the side, batch and epochs that promise most until the deadline.

    Args:
        config: The recipe with what was given.
        given: What was given, by dotted name: it is kept, and the rest is chosen.
        photos: What it learns from.
        device: Where it runs; steps are measured on it.
        deadline: When the run is to be ended, its report included.

    Raises:
        ConfigError: Not even one epoch of the smallest side fits; the message says how long it
            takes.
    """
    config = config.with_overrides({"threads": config.threads or threads_for(1)})
    torch.set_num_threads(config.threads)
    counts = _counts(photos)
    say(f"within {deadline.text}: measuring steps on {device.type}")
    candidates = _candidates(config, given, photos, counts, device, deadline)
    best, others = choose(
        config, deadline.left_s, candidates, frontier(), num_train=counts["train"],
        num_val=counts["val"], epochs=int(given["epochs"]) if "epochs" in given else None,
    )  # fmt: skip
    say(f"within {deadline.text}: {best}")
    if others:
        say(f"instead of {'; '.join(map(str, others))}")
    left_s = deadline.left_s
    if best.config.epochs == MOST_EPOCHS and "epochs" not in given and best.run_s < left_s / 2:
        say(
            f"more than {MOST_EPOCHS} epochs were never measured, so {shown(left_s - best.run_s)}"
            " are left over; --epochs or a larger --image-size uses them"
        )
    return best.config


def _counts(photos: PhotoFolder) -> dict[str, int]:
    """Return photos per split; of splits that are drawn once the photos are read, about so many."""
    if photos.seed is None:
        return {split: sum(each.values()) for split, each in photos.counts().items()}
    total = len(photos.photos)
    held_out = max(total // 10, 1)
    return {"train": max(total - 2 * held_out, 1), "val": held_out, "test": held_out}


def _candidates(
    config: TrainConfig, given: Mapping[str, Any], photos: PhotoFolder, counts: Mapping[str, int],
    device: torch.device, deadline: Deadline,
) -> list[Costs]:  # fmt: skip
    """Return the costs of each side, up to the first of which no epoch fits."""
    paths = [photo.path for photo in photos.photos]
    num_held_out = sum(counts.values()) - counts["train"]
    sides = [curve.image_size for curve in frontier()]
    if "image_size" in given:
        sides = [int(given["image_size"])]

    # A few seconds in all, and fewer where time is short.
    for_s = min(deadline.left_s / 500, 1.0)

    def costs_of(side: int, batch: Mapping[str, Any]) -> Costs:
        return measured(
            config, len(photos.labels), device, {"image_size": side, **batch},
            once_s=decode_s(paths, side), num_held_out=num_held_out, for_s=for_s,
        )  # fmt: skip

    batch: dict[str, Any] = {}
    found = [costs_of(sides[0], batch)]
    if large := large_batch(config, given, counts["train"]):
        costs = costs_of(sides[0], large)
        if _WORTH * costs.largest_s < found[0].largest_s:
            batch, found = large, [costs]
    for side in sides[1:]:
        if found[-1].once_s + found[-1].largest_s * counts["train"] > deadline.left_s:
            break
        found.append(costs_of(side, batch))
    return found


def large_batch(config: TrainConfig, given: Mapping[str, Any], num_train: int) -> dict[str, float]:
    """Return the settings of a larger batch that leaves enough steps; none where nothing does."""
    kept = {"batch_size", "micro_batch_size", "optimizer.lr", "optimizer.ema"} & set(given)
    large = in_large_batches(config, num_train)
    if kept or large.batch_size == config.batch_size or config.optimizer.name != "sgd":
        return {}
    return {
        "batch_size": large.batch_size,
        "optimizer.lr": large.optimizer.lr,
        "optimizer.ema": large.optimizer.ema,
    }
