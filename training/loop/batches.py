"""What each step learns from: photos, fixed views of them, or what frozen parts make of these.

Shapes: N photos, V views, B batch.
"""

import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from terminal import say
from training.config import TrainConfig
from training.data.augmentation import Draws, draw
from training.data.cache import DatasetCache
from training.data.loader import Batch, Feed, Placement, feed_for
from training.data.sampler import Order
from training.distributed.world import World
from training.loop.step import Engine
from training.model.cached_features import cached_features, view_draws
from training.model.stages import Phase, phase_at


class Lessons:
    """The batches of a run and their augmentation, phase by phase."""

    def __init__(
        self,
        config: TrainConfig,
        cache: DatasetCache,
        engine: Engine,
        order: Order,
        placement: Placement,
        world: World,
        *,
        use_features: bool = True,
        after_batch: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> None:
        """`use_features=False` computes the frozen parts at each step, for the same result."""
        self._config = config
        self._cache = cache
        self._engine = engine
        self._order = order
        self._placement = placement
        self._world = world
        self._use_features = use_features
        self._after_batch = after_batch
        self._part = world.part(order.batch_size)
        self._num_photos = len(cache.splits["train"].targets)
        self.photos = feed_for(cache.splits["train"], engine.device, placement)
        self.val_photos = feed_for(cache.splits["val"], engine.device, placement)
        self.feed, self.val_feed = self.photos, self.val_photos
        self.features_s = 0.0
        """Time spent in making features since it was last set to 0."""
        self._phase: Phase | None = None
        self._views: Draws | None = None

    def enter(self, epoch: int) -> None:
        """Prepare what an epoch learns from; must come before its batches."""
        phase = phase_at(self._config, epoch)
        if phase == self._phase:
            return
        self.feed, self.val_feed, self._views = self.photos, self.val_photos, None
        self._engine.enter(phase)
        if phase.views:
            self._views = view_draws(self._num_photos, phase.views, self._engine.augment)
            if self._use_features:
                started_s = time.perf_counter()
                self._take_features(phase)
                self.features_s += time.perf_counter() - started_s
        self._phase = phase

    def size_at(self, epoch: int) -> int:
        """Return the side that is trained at; with fixed views it is the last one throughout."""
        return self._config.size_at(self._config.epochs if self._views is not None else epoch)

    def late_at(self, epoch: int) -> bool:
        """Return whether an epoch is one of the last, which go without some augmentation."""
        off = self._config.augment.off_epochs
        return self._views is None and epoch >= self._config.epochs - off

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """Yield this process's part of the batch of each step."""
        # Features lie view by view, and there are as many as views; photos are there once.
        there = self.feed.num_photos
        return self.feed.batches(self.rows(step) % there for step in range(start, stop))

    def draws(self, step: int, epoch: int) -> Draws:
        """Return the augmentation of this process's part of a step."""
        if self._views is not None:
            return self._views[torch.from_numpy(self.rows(step))]
        batch, config = self._order.batch_size, self._config
        late = self.late_at(epoch)
        return draw(batch, config.augment, seed=config.seed, step=step, late=late)[self._part]

    def rows(self, step: int) -> NDArray[np.int64]:
        """Return this process's photos of a step, each in one of its views, as view x N + photo."""
        rows = self._order.rows(step)
        if self._phase is not None and self._phase.views:
            # Another stream than the order's and the augmentation's, which have [seed, number].
            random = np.random.Generator(np.random.Philox(key=[self._config.seed, step], counter=1))
            rows = rows + self._num_photos * random.integers(self._phase.views, size=len(rows))
        return rows[self._part]

    def _take_features(self, phase: Phase) -> None:
        """Let the leading process make the features, then open them in every process."""
        mine = self._features(phase) if self._world.leads else None
        if not self._world.share(mine is not None):
            say("no room for the features of the frozen parts: they are computed at each step")
            return
        feeds = mine or self._features(phase)
        if feeds is not None:
            self.feed, self.val_feed = feeds
            self._engine.enter(phase, cached=True)

    def _features(self, phase: Phase) -> tuple[Feed, Feed] | None:
        """Return feeds of what the frozen parts make of both splits; None without room."""
        config, engine = self._config, self._engine
        found = []
        for split, views in (("train", phase.views), ("val", 0)):
            features = cached_features(
                self._cache, split, engine.model, phase.frozen, image_size=config.image_size,
                views=views, size=config.size_at(config.epochs), config=engine.augment,
                # As the steps compute; validation is in fp32.
                bf16=engine.precision == "bf16" and split == "train",
                after_batch=self._after_batch,
            )  # fmt: skip
            if features is None:
                return None
            found.append(feed_for(features, engine.device, self._placement))
        # The mirror image of a photo has features of its own.
        return found[0], self.val_photos if config.flip_average else found[1]
