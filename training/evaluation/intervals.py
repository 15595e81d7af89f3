"""How uncertain a measured accuracy is: 95 % intervals, and a test of differences.

Photos that share groups are worth fewer: then `clusters.py` has the intervals.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from training.evaluation import clusters as by_group
from training.evaluation.clusters import Clusters

Z95 = 1.959963984540054
"""Standard normal quantile of a 95 % interval."""


def wilson(
    successes: ArrayLike, trials: ArrayLike, quantile: float = Z95
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the 95 % score interval of proportions (Wilson 1927); NaN where there are no trials.

    It stays within 0 to 1, and covers well at both ends and for few trials.
    """
    n = np.where(np.asarray(trials) > 0, trials, np.nan).astype(np.float64)
    share = np.asarray(successes, np.float64) / n
    spread = quantile * np.sqrt(share * (1 - share) / n + quantile**2 / (4 * n**2))
    centre, scale = share + quantile**2 / (2 * n), 1 + quantile**2 / n
    return np.maximum((centre - spread) / scale, 0), np.minimum((centre + spread) / scale, 1)


def wilson_of(num_correct: float, num_photos: int) -> tuple[float, float]:
    """Return the Wilson interval of one accuracy, as fractions."""
    low, high = wilson(num_correct, num_photos)
    return float(low), float(high)


def method(groups: int) -> str:
    """Return what to call intervals: Wilson's over photos, or over groups that photos share."""
    return f"Wilson over {groups} groups" if groups else "Wilson over photos"


def over(groups: int) -> str:
    """Return what the interval of a difference counts."""
    return f"over {groups} groups" if groups else "over photos"


def accuracy_interval(right: ArrayLike, clusters: Clusters | None) -> tuple[float, float]:
    """Return the 95 % interval of an accuracy, as fractions.

    `right` (N,) is whether each photo is right, or how often over several seeds.
    """
    if clusters is not None:
        return by_group.interval(right, clusters)
    values = np.asarray(right, np.float64)
    return wilson_of(float(values.sum()), len(values))


def paired_interval(
    each: NDArray[np.float64], clusters: Clusters | None = None
) -> tuple[float, float]:
    """Return the middle and half the width of the 95 % interval of a mean difference.

    `each` (N,) is the difference of two models on each of the same N photos. Half a photo is added
    to each of the four outcomes, or models that never differ would get an interval of width 0
    (Agresti and Min 2005).
    """
    if clusters is not None:
        return by_group.paired(each, clusters)
    n = len(each) + 2
    total, squares = float(each.sum()), float(np.square(each).sum()) + 1
    return total / n, Z95 * math.sqrt(squares - total**2 / n) / n


def mcnemar(gained: int, lost: int, *, one_sided: bool = False) -> float:
    """Return McNemar's exact p, the probability of such counts from a fair coin (McNemar 1947).

    One-sided, the probability of `gained` or more; otherwise of counts as unequal in either way.
    """
    from scipy.stats import binomtest

    if gained + lost == 0:
        return 1.0
    way = "greater" if one_sided else "two-sided"
    return float(binomtest(gained, gained + lost, alternative=way).pvalue)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and half the width of its 95 % interval (Student's t); 0 for one value."""
    n = len(values)
    if n == 1:
        return values[0], 0.0
    from scipy.stats import t

    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
    return mean, float(t.ppf(0.975, n - 1)) * deviation / math.sqrt(n)
