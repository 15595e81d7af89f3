"""The batch plan of a run: what each step learns from.

photos ────────────────────────────────► loader ─► StepData
photos ─► frozen parts ─► features ────► loader ─► StepData     in phases with fixed views

Shapes: N photos, V views, B batch.
"""

import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from terminal import say
from training.config import TrainConfig
from training.data.augment_parameters import AugmentParameters, sample_parameters
from training.data.cache import DatasetCache
from training.data.loader import Loader, Placement, loader_for
from training.data.sampler import Sampler, at_most, class_weights
from training.distributed.world import World
from training.errors import ConfigError
from training.loop.learner import Learner, StepData
from training.model.cached_features import cached_features, view_parameters
from training.model.stages import Phase, phase_at


def require_pairs(config: TrainConfig, batch_size: int, world: World) -> None:
    """Check that every process computes two photos or more at a time, and mixes whole pairs.

    Raises:
        ConfigError: It does not; the message says what would do.
    """
    at_a_time = (config.micro_batch_size or batch_size) // world.size
    if at_a_time < 2:
        raise ConfigError(
            f"{world.size} processes would compute {at_a_time} photos at a time, and BatchNorm"
            f" learns from two or more; use --batch-size {2 * world.size} or more, or fewer"
            " processes"
        )
    # The last photo of an odd data set alone may stay unmixed.
    shared = config.micro_batch_size or world.size > 1
    if config.augment.mixes and shared and at_a_time % 2:
        raise ConfigError(
            f"mixup and cutmix pair neighbours, and {world.size} processes would compute"
            f" {at_a_time} photos at a time; use a --batch-size or a micro_batch_size that is"
            f" divided by {2 * world.size}"
        )


def sampler_for(
    config: TrainConfig, cache: DatasetCache
) -> tuple[Sampler, NDArray[np.float32] | None]:
    """Return which photos each step sees, and the weights of the classes, (K,), if they differ."""
    photos = cache.splits["train"]
    only = weights = None
    if config.photos_per_class:
        only = at_most(photos.targets, photos.hashes or photos.files, config.photos_per_class)
    if config.balance != "none":
        learnt = photos.targets if only is None else photos.targets[only]
        weights = class_weights(learnt, len(cache.labels), config.balance_power)
    sampler = Sampler(
        photos.targets, config.batch_size, seed=config.seed, only=only,
        weights=weights if config.balance == "sampling" else None,
    )  # fmt: skip
    return sampler, weights


class BatchPlan:
    """What the steps of a run learn from, phase by phase; call `enter` before an epoch's steps."""

    def __init__(
        self,
        config: TrainConfig,
        cache: DatasetCache,
        learner: Learner,
        sampler: Sampler,
        placement: Placement,
        world: World,
        *,
        use_features: bool = True,
        after_batch: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> None:
        """Place the photos of a run.

        Without `use_features`, the frozen parts are computed at each step, for the same result.
        `after_batch` is called with (views done, views in all) while features are made.
        """
        self._config = config
        self._cache = cache
        self._learner = learner
        self._sampler = sampler
        self._placement = placement
        self._world = world
        self._use_features = use_features
        self._after_batch = after_batch
        require_pairs(config, sampler.batch_size, world)
        self._part = world.part(sampler.batch_size)
        self._num_photos = len(cache.splits["train"].targets)
        photos = cache.splits["train"].to_learn_from(config.augment)
        self.photos = loader_for(photos, learner.device, placement)
        self.val_photos = loader_for(cache.splits["val"], learner.device, placement)
        self.train_loader, self.val_loader = self.photos, self.val_photos
        self.features_s = 0.0
        """Seconds spent in making features since this was last set to 0."""
        self._phase: Phase | None = None
        self._views: AugmentParameters | None = None

    def enter(self, epoch: int) -> None:
        """Prepare what an epoch learns from: in a new phase, freeze parts and make features."""
        phase = phase_at(self._config, epoch)
        if phase == self._phase:
            return
        self.train_loader, self.val_loader, self._views = self.photos, self.val_photos, None
        self._learner.enter(phase)
        if phase.views:
            self._views = view_parameters(self._num_photos, phase.views, self._learner.augment)
            if self._use_features:
                started_s = time.perf_counter()
                self._take_features(phase)
                self.features_s += time.perf_counter() - started_s
        self._phase = phase

    def size_at(self, epoch: int) -> int:
        """Return the side that an epoch trains at, in pixels; fixed views have the last one."""
        return self._config.size_at(self._config.epochs if self._views is not None else epoch)

    def steps(self, start: int, stop: int, epoch: int) -> Iterator[StepData]:
        """Yield what each step of an epoch learns from: this process's part of its batch."""
        # Features lie view by view, one for each row. Photos lie there once, for all views.
        num_rows = self.train_loader.num_photos
        rows = (self._rows(step) % num_rows for step in range(start, stop))
        size, late = self.size_at(epoch), self._is_late(epoch)
        for step, (images, targets) in enumerate(self.train_loader.batches(rows), start):
            parameters = self._parameters(step, late)
            yield StepData(images, targets, parameters, size=size, late=late)

    def _is_late(self, epoch: int) -> bool:
        return self._views is None and self._config.is_late(epoch)

    def _parameters(self, step: int, late: bool) -> AugmentParameters:
        if self._views is not None:
            return self._views[torch.from_numpy(self._rows(step))]
        batch, config = self._sampler.batch_size, self._config
        parameters = sample_parameters(
            batch, config.augment, seed=config.seed, step=step, late=late
        )
        return parameters[self._part]

    def _rows(self, step: int) -> NDArray[np.int64]:
        """Return this process's photos of a step, each in one of its views, as view x N + photo."""
        rows = self._sampler.rows(step)
        if self._phase is not None and self._phase.views:
            # The sampler and the augmentation use the key [seed, number] with counter 0.
            random = np.random.Generator(np.random.Philox(key=[self._config.seed, step], counter=1))
            rows = rows + self._num_photos * random.integers(self._phase.views, size=len(rows))
        return rows[self._part]

    def _take_features(self, phase: Phase) -> None:
        """Let the leading process make the features, then open them in every process."""
        mine = self._features(phase) if self._world.leads else None
        if not self._world.share(mine is not None):
            say("no room for the features of the frozen parts: they are computed at each step")
            return
        loaders = mine or self._features(phase)
        if loaders is not None:
            self.train_loader, self.val_loader = loaders
            self._learner.enter(phase, cached=True)

    def _features(self, phase: Phase) -> tuple[Loader, Loader] | None:
        """Return loaders of the frozen parts' output on train and val; None without room for it."""
        config, learner = self._config, self._learner
        loaders = []
        for split, views in (("train", phase.views), ("val", 0)):
            features = cached_features(
                self._cache, split, learner.model, phase.frozen, image_size=config.image_size,
                views=views, size=config.size_at(config.epochs), config=learner.augment,
                # Training features are computed as steps compute; validation is always in fp32.
                bf16=learner.precision == "bf16" and split == "train",
                after_batch=self._after_batch,
            )  # fmt: skip
            if features is None:
                return None
            loaders.append(loader_for(features, learner.device, self._placement))
        # Flip averaging also needs the features of the mirrored photo, which are not made.
        return loaders[0], self.val_photos if config.flip_average else loaders[1]
