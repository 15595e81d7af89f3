"""Photos that share groups: how many photos they are worth, and intervals that hold for new groups.

Photos of one object are right or wrong together, so N of them say less than N photos do. The design
effect d is the variance of the accuracy over groups, by that over photos (Kish 1965). N photos are
then worth N/d, and Wilson's interval of so many is taken, with Student's quantile.

Its degrees of freedom are few where few groups carry the variance, as when two of 24 objects are
always wrong: 1.8 times the effective number of groups that differ from the mean. With 24 groups of
15 photos these intervals cover 94 to 97 %, where percentiles of a cluster bootstrap cover 75 to
94 % (benchmarks/learning/coverage.py, docs/notes/experiments.md).

Shapes: N photos, G groups.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_FREEDOM = 1.8
"""Degrees of freedom for each group that carries the variance; by simulation."""


@dataclass(frozen=True, slots=True)
class Clusters:
    """The groups of photos."""

    index: Ints
    """(N,), the group of each photo; one without a group has one of its own."""
    count: int
    """G; of groups with one photo, too."""

    @classmethod
    def of(cls, groups: Sequence[str]) -> "Clusters | None":
        """Return the groups of photos; None where no two photos share one."""
        times = Counter(group for group in groups if group)
        if max(times.values(), default=0) < 2:
            return None
        named = [group or f"\0{row}" for row, group in enumerate(groups)]
        _, index = np.unique(np.array(named), return_inverse=True)
        return cls(index.astype(np.int64), int(index.max()) + 1)

    def sums(self, values: ArrayLike) -> Floats:
        """Return the sum of values (N,) in each group, (G,)."""
        sums: Floats = np.bincount(self.index, np.asarray(values, np.float64), self.count).astype(
            np.float64
        )
        return sums

    def subset(self, rows: NDArray[np.bool_]) -> "Clusters":
        """Return the groups of some photos (N,)."""
        _, index = np.unique(self.index[rows], return_inverse=True)
        return Clusters(index.astype(np.int64), int(index.max(initial=-1)) + 1)

    @property
    def mean_size(self) -> float:
        """Photos in the group of a photo, on the average over photos."""
        return float(np.square(np.bincount(self.index)).sum() / max(len(self.index), 1))


@dataclass(frozen=True, slots=True)
class Effect:
    """What groups do to the variance of an accuracy."""

    correlation: float
    """Of the photos of one group: 0 if they are as good as independent, 1 if as good as one."""
    quantile: float
    """Student's, of a 95 % interval."""

    def design(self, clusters: Clusters) -> float:
        """Return the design effect d of photos: N of them are worth N/d."""
        return 1 + (clusters.mean_size - 1) * self.correlation


@dataclass(frozen=True, slots=True)
class Designs:
    """The design effects of each class, [K], and the quantile of their 95 % intervals.

    The correlation is that of all photos, since a class has few groups of its own.
    """

    support: Floats | float
    """Of the photos of the class."""
    predicted: Floats | float
    """Of those that are taken for it."""
    union: Floats | float
    """Of both together."""
    quantile: float

    @classmethod
    def of(cls, targets: Ints, predicted: Ints, clusters: Clusters, num_classes: int) -> "Designs":
        """Return the design effects of photos by their class and what they are taken for."""
        found = effect_on(targets == predicted, clusters)

        def design(classes: Ints, index: Ints) -> Floats:
            cells, sizes = np.unique(classes * clusters.count + index, return_counts=True)
            of_class = cells // clusters.count
            squares = np.bincount(of_class, np.square(sizes), num_classes)
            photos = np.bincount(of_class, sizes, num_classes)
            mean_size = squares / np.maximum(photos, 1)
            return np.maximum(1 + (mean_size - 1) * found.correlation, 1)

        other = predicted != targets
        return cls(
            design(targets, clusters.index),
            design(predicted, clusters.index),
            design(
                np.concatenate([targets, predicted[other]]),
                np.concatenate([clusters.index, clusters.index[other]]),
            ),
            found.quantile,
        )


def effect_on(right: ArrayLike, clusters: Clusters) -> Effect:
    """Return what groups do to the accuracy of photos.

    Args:
        right: (N,), whether each is right, or how often over several seeds.
        clusters: Their groups.
    """
    values = np.asarray(right, np.float64)
    deviations = values - values.mean()
    within = float(np.square(deviations).sum())
    squares = np.square(clusters.sums(deviations))
    count, size = clusters.count, clusters.mean_size
    if count < 2 or within == 0:
        # Nothing is known of how groups differ: as if the photos of each were one.
        design = size
    else:
        design = count / (count - 1) * float(squares.sum()) / within
    design = min(max(design, 1.0), size)
    return Effect((design - 1) / (size - 1) if size > 1 else 0.0, student(squares, 0.05))


def interval(right: ArrayLike, clusters: Clusters) -> tuple[float, float]:
    """Return the 95 % interval of an accuracy, as fractions (see the module)."""
    values = np.asarray(right, np.float64)
    found = effect_on(values, clusters)
    return wilson_with(float(values.mean()), len(values) / found.design(clusters), found.quantile)


def wilson_with(share: float, trials: float, quantile: float) -> tuple[float, float]:
    """Return Wilson's score interval of a proportion, with a quantile of one's own."""
    spread = quantile * math.sqrt(share * (1 - share) / trials + quantile**2 / (4 * trials**2))
    centre, scale = share + quantile**2 / (2 * trials), 1 + quantile**2 / trials
    return max((centre - spread) / scale, 0.0), min((centre + spread) / scale, 1.0)


def paired(each: Floats, clusters: Clusters) -> tuple[float, float]:
    """Return the middle and half the width of the 95 % interval of a mean difference.

    `each` (N,) is the difference of two models on each of the same N photos. As without groups,
    half a photo is added to each of the four outcomes (Agresti and Min 2005), here as many as make
    up for the design effect.
    """
    total, squares = float(each.sum()), float(np.square(each).sum())
    by_group = np.square(clusters.sums(each - each.mean()))
    alone = float(np.square(each - each.mean()).sum())
    size, count = clusters.mean_size, clusters.count
    design = size
    if alone and count > 1:
        design = min(max(count / (count - 1) * float(by_group.sum()) / alone, 1.0), size)
    n = len(each) + 2 * design
    variance = design * max(squares + design - total**2 / n, 0.0)
    return total / n, student(by_group, 0.05) * math.sqrt(variance) / n


def leaving_out(value: float, without: Floats, alpha: float = 0.05) -> tuple[float, float]:
    """Return the interval of a statistic by leaving out one group at a time (jackknife).

    Args:
        value: The statistic on all photos.
        without: (G,), the same without each group.
        alpha: The chance that is left outside, on both sides together.
    """
    squares = np.square(without - without.mean())
    spread = math.sqrt((len(without) - 1) / len(without) * float(squares.sum()))
    half = student(squares, alpha) * spread
    return value - half, value + half


def sign_flips(differences: Iterable[float], *, one_sided: bool = False) -> float:
    """Return the exact p of differences of groups, were each as likely the other way round.

    With a photo in each group this is McNemar's exact test. Otherwise the signs of whole groups are
    flipped, so photos that differ together count once.

    Args:
        differences: (G,), gained photos less lost ones; whole numbers.
        one_sided: The chance of a sum as high or higher; else of one as far from 0.
    """
    whole = [round(value) for value in differences]
    sizes = [abs(value) for value in whole if value]
    if not sizes:
        return 1.0
    chances = np.ones(1)
    for size in sizes:
        # Of the sum of flipped signs, from -size to size around the sum so far.
        wider = np.zeros(len(chances) + 2 * size)
        wider[: len(chances)] += chances / 2
        wider[2 * size :] += chances / 2
        chances = wider
    total, reach = sum(whole), sum(sizes)
    sums = np.arange(-reach, reach + 1)
    beyond = sums >= total if one_sided else np.abs(sums) >= abs(total)
    return float(min(chances[beyond].sum(), 1.0))


def student(squares: Floats, alpha: float) -> float:
    """Return Student's quantile for squared deviations of groups, (G,)."""
    from scipy.stats import t

    fourth = float(np.square(squares).sum())
    freedom = float(max(len(squares) - 1, 1))
    if fourth > 0:
        freedom = min(freedom, max(_FREEDOM * float(squares.sum()) ** 2 / fourth, 1.0))
    return float(t.ppf(1 - alpha / 2, freedom))
