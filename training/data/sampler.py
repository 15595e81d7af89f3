"""Which photos each step sees: a function of (seed, epoch), for any number of processes.

Epochs follow each other in one endless sequence, which is cut into batches. The rest of an epoch
that fills no batch begins the first batch of the next, so no photo is left out.

Shapes: N photos, K classes.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


class Sampler:
    """The photos of each step of a run."""

    def __init__(
        self,
        targets: NDArray[np.int64],
        batch_size: int,
        *,
        seed: int,
        weights: NDArray[np.float32] | None = None,
        only: NDArray[np.int64] | None = None,
    ) -> None:
        """Sample from photos with these targets (N,), or from some `only` of them, positions (M,).

        With `weights` of the classes (K,), an epoch is N photos in proportion to the weights, some
        repeated and some missing; without, each photo once. Those of `only` repeat until an epoch
        is as long: each comes as often as every other, or once more.
        """
        self.batch_size = min(batch_size, len(targets))
        self._num_photos = len(targets)
        self._seed = seed
        self._photos = None if only is None else np.resize(only, len(targets))
        drawn = targets if self._photos is None else targets[self._photos]
        self._weights = None if weights is None else weights[drawn].astype(np.float64)
        # A batch takes photos of two epochs at most.
        self._epoch = lru_cache(2)(self._rows_of_epoch)

    def steps_before(self, epoch: int) -> int:
        """Return how many steps come before an epoch (from 0)."""
        return epoch * self._num_photos // self.batch_size

    def rows(self, step: int) -> NDArray[np.int64]:
        """Return the photos of a step, (batch_size,)."""
        epoch, start = divmod(step * self.batch_size, self._num_photos)
        rows = self._epoch(epoch)[start : start + self.batch_size]
        if len(rows) == self.batch_size:
            return rows
        return np.concatenate([rows, self._epoch(epoch + 1)[: self.batch_size - len(rows)]])

    def _rows_of_epoch(self, epoch: int) -> NDArray[np.int64]:
        rows = self._drawn(epoch)
        return rows if self._photos is None else self._photos[rows]

    def _drawn(self, epoch: int) -> NDArray[np.int64]:
        random = np.random.Generator(np.random.Philox(key=[self._seed, epoch]))
        if self._weights is None:
            return random.permutation(self._num_photos)
        # Systematic sampling: points at equal distances on the running sum of the weights. Each
        # photo comes as often as its weight says, rounded up or down, and never far more often.
        edges = np.cumsum(self._weights) * (self._num_photos / self._weights.sum())
        points = np.arange(self._num_photos) + random.random()
        rows = np.searchsorted(edges, points, side="right").clip(max=self._num_photos - 1)
        return random.permutation(rows)


def at_most(
    targets: NDArray[np.int64], hashes: Sequence[str], photos_per_class: int
) -> NDArray[np.int64]:
    """Return the positions of at most so many photos of each class, sorted.

    They are the first by hash (N,), so few photos are some of more, and a new photo moves few.

    >>> at_most(np.array([0, 0, 0, 1]), ["c", "a", "b", "d"], 2).tolist()
    [1, 2, 3]
    """
    order = np.lexsort((np.array(hashes), targets))
    of_class = targets[order]
    starts = np.searchsorted(of_class, of_class)
    return np.sort(order[np.arange(len(order)) - starts < photos_per_class])


def micro_batches(num_photos: int, size: int) -> list[slice]:
    """Return the parts that a batch is computed in, of `size` photos each; 0 is all at once.

    A single photo that is left joins the part before it: BatchNorm cannot learn from one.

    >>> micro_batches(9, 4)
    [slice(0, 4, None), slice(4, 9, None)]
    """
    starts = list(range(0, num_photos, size or num_photos))
    if len(starts) > 1 and num_photos - starts[-1] == 1:
        starts.pop()
    return [slice(*each) for each in zip(starts, [*starts[1:], num_photos], strict=True)]


def class_weights(
    targets: NDArray[np.int64], num_classes: int, power: float
) -> NDArray[np.float32]:
    """Return a weight for each class, (K,): its photos to the power of -`power`, mean photo 1.

    >>> class_weights(np.array([0, 0, 0, 1]), 2, 1.0).round(2).tolist()
    [0.67, 2.0]
    """
    counts = np.bincount(targets, minlength=num_classes)
    weights = np.maximum(counts, 1.0) ** -power
    scaled: NDArray[np.float32] = (weights * counts.sum() / (weights * counts).sum()).astype(
        np.float32
    )
    return scaled
