"""The intervals of macro recall and macro F1: means over classes, of photos that may share groups.

A photo's *influence* is by how much the figure changes as that photo counts more (Jaeckel 1972).
Summed in each group, squared and added up, influences give the variance of the figure. Wilson's
interval of as many photos as have that variance is taken, with Student's quantile, as for an
accuracy. With 24 groups of 15 photos it covers 93 to 97 %; with two or three objects a class that
are nearly all right, 90 to 93 % (benchmarks/learning/coverage.py, docs/notes/experiments.md).

Shapes: N photos, K classes, G groups.
"""

import numpy as np
from numpy.typing import NDArray

from training.evaluation.clusters import Clusters, student, wilson_with

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_TINY = 1e-12


def recall_interval(
    targets: Ints, predicted: Ints, num_classes: int, clusters: Clusters | None
) -> tuple[float, float]:
    """Return the 95 % interval of the mean recall of the classes that have photos."""
    right = targets == predicted
    support = np.bincount(targets, minlength=num_classes)
    each = share(np.bincount(targets[right], minlength=num_classes), support)
    value = float(np.nanmean(each))
    weights = _weights(support)[targets]
    return _interval(
        value, weights * (right - each[targets]), weights * (right - value), targets, clusters
    )


def f1_interval(
    targets: Ints, predicted: Ints, num_classes: int, clusters: Clusters | None
) -> tuple[float, float]:
    """Return the 95 % interval of the mean F1 of the classes that have photos or answers."""
    right = targets == predicted
    both = np.bincount(targets, minlength=num_classes)
    both += np.bincount(predicted, minlength=num_classes)
    each = share(2 * np.bincount(targets[right], minlength=num_classes), both)
    value = float(np.nanmean(each))
    weights = _weights(both)

    def influences(level: Floats) -> Floats:
        lost = weights * level
        found: Floats = 2 * right * weights[targets] - lost[targets] - lost[predicted]
        return found

    whole = influences(np.full(num_classes, value))
    return _interval(value, influences(np.nan_to_num(each)), whole, targets, clusters)


def share(part: NDArray[np.generic], whole: NDArray[np.generic]) -> Floats:
    """Divide; NaN where there is nothing to divide by."""
    whole_f = np.asarray(whole, np.float64)
    result: Floats = np.asarray(part, np.float64) / np.where(whole_f > 0, whole_f, np.nan)
    return result


def _weights(counts: Ints) -> Floats:
    """Return what one of so many counts in a mean over the classes that have any, (K,)."""
    weights: Floats = 1 / (np.maximum(counts, 1) * max(int((counts > 0).sum()), 1))
    return weights


def _interval(
    value: float, influence: Floats, alone: Floats, targets: Ints, clusters: Clusters | None
) -> tuple[float, float]:
    """Return Wilson's interval of as many photos as have the variance of the influences.

    Args:
        value: The figure.
        influence: (N,), of each photo, against the rate of its own class.
        alone: (N,), against the figure: for classes with one group, whose own rate that group is.
        targets: (N,), the class of each photo.
        clusters: The groups; None if each photo stands alone.
    """
    photos, classes = len(targets), int(targets.max()) + 1
    index, count = (clusters.index, clusters.count) if clusters else (np.arange(photos), photos)
    support = np.bincount(targets, minlength=classes)
    cells = np.unique(targets * count + index)
    groups = np.bincount(cells // count, minlength=classes)
    # The groups of a class differ less from their own mean than from the true one.
    scale = np.sqrt(groups / np.maximum(groups - 1, 1))
    centred = influence - (np.bincount(targets, influence) / np.maximum(support, 1))[targets]
    known = np.where(groups[targets] > 1, centred * scale[targets], alone)
    squares = np.square(np.bincount(index, known, count))
    variance = max(float(squares.sum()), float(np.square(centred).sum()))
    spread = value * (1 - value)
    if min(spread, variance) > _TINY:
        trials = spread / variance
    else:
        # All right, or all wrong: as if the photos of each group were one.
        whole = np.bincount(index, _weights(support)[targets], count)
        trials = 1 / float(np.square(whole).sum())
    return wilson_with(value, trials, student(squares, 0.05))
