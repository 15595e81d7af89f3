"""How many photos a step of a new run takes: as it was asked for, or as the device likes it.

recipe ─► large? (CUDA, or --batch-size large) ─► in parts that fit? (--batch-size auto) ─► config
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from terminal import say

if TYPE_CHECKING:
    from training.config import TrainConfig
    from training.data.cache import DatasetCache
    from training.distributed.world import World

NAMES = ("auto", "large")
"""What `--batch-size` may be beside a number."""


def with_batch(
    config: "TrainConfig", asked: str, about: dict[str, Any] | None, cache: "DatasetCache",
    device: str, world: "World", overrides: Mapping[str, Any],
) -> "TrainConfig":  # fmt: skip
    """Return the config with its batch; a run that exists keeps its own.

    Args:
        config: The recipe's, with what was chosen.
        asked: `--batch-size`; empty for none.
        about: config.json of a run that exists.
        cache: The photos.
        device: `auto`, `cuda` or `cpu`.
        world: The processes that share the batch.
        overrides: What was chosen; it wins.

    Raises:
        RunError: Not even two photos fit.
        ConfigError: The processes cannot share the batch.
    """
    if asked == "large" or (asked in ("", "auto") and _likes_large(config, device, overrides)):
        config = _large(config, about, cache, world).with_overrides(overrides)
    return _fitted(config, about, cache, device, world) if asked == "auto" else config


def _likes_large(config: "TrainConfig", device: str, overrides: Mapping[str, Any]) -> bool:
    """Return whether a run takes large batches unasked: on CUDA, with a recipe's own rate."""
    from training.model.device import device_for

    chosen = {"optimizer.name", "optimizer.lr", "optimizer.ema", "batch_size"} & overrides.keys()
    likes = config.recipe in ("scratch", "long") and not chosen
    return likes and device_for(device).type == "cuda"


def _large(
    config: "TrainConfig", about: dict[str, Any] | None, cache: "DatasetCache", world: "World"
) -> "TrainConfig":
    from training.recipes import in_large_batches

    if about is not None:
        own, optimizer = about["config"], about["config"]["optimizer"]
        rates = {f"optimizer.{name}": optimizer[name] for name in ("lr", "ema")}
        return config.with_overrides({"batch_size": own["batch_size"], **rates})
    large = in_large_batches(config, len(cache.splits["train"].targets))
    if world.leads and large != config:
        say(
            f"batch: {large.batch_size} photos with optimizer.lr {large.optimizer.lr:g}, as GPUs"
            f" are fast with; --batch-size {config.batch_size} keeps the recipe's"
        )
    return large


def _fitted(
    config: "TrainConfig", about: dict[str, Any] | None, cache: "DatasetCache", device: str,
    world: "World",
) -> "TrainConfig":  # fmt: skip
    """Return the config with a micro-batch that fits the device."""
    if about is not None:
        # With another micro-batch it would be another run.
        found = about["config"]["micro_batch_size"]
        return config.with_overrides({"micro_batch_size": found})
    if config.micro_batch_size:
        return config
    from training.loop.batch_finder import find_micro_batch

    return find_micro_batch(config, cache, device, world)
