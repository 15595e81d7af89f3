"""The interval of the macro F1: by resampling photos, or by leaving out one group at a time.

Shapes: N photos, K classes, G groups.
"""

import numpy as np
from numpy.typing import NDArray

from training.evaluation.clusters import Clusters, leaving_out

_RESAMPLINGS = 1000

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def resampled(matrix: Ints) -> Floats:
    """Return the macro F1 of 1,000 resamplings of the photos of a confusion matrix [K, K]."""
    random = np.random.Generator(np.random.Philox(0))
    true, taken = np.nonzero(matrix)
    counts = matrix[true, taken]
    values = np.empty(_RESAMPLINGS)
    # Only of cells that hold photos: with thousands of classes most are empty.
    for index in range(_RESAMPLINGS):
        sample = random.multinomial(counts.sum(), counts / counts.sum())
        both = np.bincount(true, sample, len(matrix)) + np.bincount(taken, sample, len(matrix))
        right = np.bincount(true, sample * (true == taken), len(matrix))
        values[index] = np.nanmean(share(2 * right, both))
    return values


def percentiles(values: Floats) -> tuple[float, float]:
    """Return the middle 95 % of values."""
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def by_group(
    targets: Ints, predicted: Ints, clusters: Clusters, num_classes: int
) -> tuple[float, float]:
    """Return the 95 % interval of the macro F1 of photos that share groups, within 0 to 1."""
    shape = (clusters.count, num_classes)
    both, right = np.zeros(shape), np.zeros(shape)
    np.add.at(both, (clusters.index, targets), 1)
    np.add.at(both, (clusters.index, predicted), 1)
    np.add.at(right, (clusters.index, targets), targets == predicted)
    whole = float(np.nanmean(share(2 * right.sum(0), both.sum(0))))
    # A class that only one group has is missing without it, and counts no more.
    without = np.nanmean(share(2 * (right.sum(0) - right), both.sum(0) - both), 1)
    low, high = leaving_out(whole, without)
    return max(low, 0.0), min(high, 1.0)


def share(part: NDArray[np.generic], whole: NDArray[np.generic]) -> Floats:
    """Divide; NaN where there is nothing to divide by."""
    whole_f = np.asarray(whole, np.float64)
    result: Floats = np.asarray(part, np.float64) / np.where(whole_f > 0, whole_f, np.nan)
    return result
