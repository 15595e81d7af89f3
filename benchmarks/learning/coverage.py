"""How often 95 % intervals hold the true accuracy where photos share groups: a simulation.

python -m benchmarks.learning.coverage --groups 24 --photos 15 --repeats 2000

Each group has an accuracy of its own, around the true one; its photos are right with it. That gives
photos of a group the correlation that is asked for. `beta` draws the accuracies of groups from a
beta distribution, `probit` from a normal one behind a probit. The intervals are those that reports
use, beside Wilson's over photos and the percentiles of a cluster bootstrap. The last column is that
of a difference of two models, whose errors are correlated, too; its truth is 0.

--macro does the same for macro recall and macro F1. `objects` are of one class each, and the
mistakes of an object are all of one kind; `shops` have photos of all classes. Half of the classes
are easier than the given accuracy, and half harder.
"""

import argparse
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from training.evaluation.clusters import Clusters
from training.evaluation.intervals import accuracy_interval, paired_interval, wilson_of
from training.evaluation.macro import f1_interval, recall_interval

ACCURACIES = (0.6, 0.7, 0.8, 0.9, 0.95)
CORRELATIONS = (0.1, 0.3, 0.5, 0.7)
CLASSES = (4, 8, 12)
_RESAMPLES = 400
_APART = 0.15
"""By how much a class is easier or harder than the mean, where there is room for it."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Covered:
    """How often intervals of one figure hold the truth, as shares of the draws."""

    covers: float
    photos_cover: float
    """Of those that take every photo for one of its own."""
    width: float
    """Of the first, on the average."""


def group_accuracies(
    random: np.random.Generator, kind: str, accuracy: float, correlation: float, shape: int
) -> Floats:
    """Return the accuracy of each group, with the true one as their mean."""
    if kind == "beta":
        rest = 1 / correlation - 1
        return random.beta(accuracy * rest, (1 - accuracy) * rest, shape)
    spread = np.sqrt(correlation / (1 - correlation))
    middle = norm.ppf(accuracy) * np.sqrt(1 + spread**2)
    drawn: Floats = norm.cdf(middle + spread * random.standard_normal(shape))
    return drawn


def percentiles_of_clusters(
    random: np.random.Generator, right: Floats, clusters: Clusters
) -> tuple[float, float]:
    """Return the percentile interval of a bootstrap over groups."""
    sums, sizes = clusters.sums(right), clusters.sums(np.ones(len(right)))
    rows = random.integers(0, clusters.count, (_RESAMPLES, clusters.count))
    low, high = np.percentile(sums[rows].sum(1) / sizes[rows].sum(1), [2.5, 97.5])
    return float(low), float(high)


def covered(
    kind: str, accuracy: float, correlation: float, groups: int, photos: int, repeats: int
) -> tuple[float, ...]:
    """Return how often each interval holds the truth, and the mean width of ours."""
    random = np.random.default_rng(0)
    clusters = Clusters(np.repeat(np.arange(groups), photos), groups)
    hits, width = np.zeros(4), 0.0
    for _ in range(repeats):
        shares = group_accuracies(random, kind, accuracy, correlation, groups)
        # Of another model, as good on the average, that is as good on half of the groups.
        fresh = group_accuracies(random, kind, accuracy, correlation, groups)
        others = np.where(random.random(groups) < 0.5, shares, fresh)
        right, other = (
            (random.random(groups * photos) < np.repeat(each, photos)).astype(np.float64)
            for each in (shares, others)
        )
        found = (
            accuracy_interval(right, clusters),
            percentiles_of_clusters(random, right, clusters),
            wilson_of(float(right.sum()), len(right)),
        )
        hits[:3] += [low <= accuracy <= high for low, high in found]
        width += found[0][1] - found[0][0]
        middle, half = paired_interval(other - right, clusters)
        hits[3] += abs(middle) <= half
    return (*(hits / repeats).tolist(), width / repeats)


def covered_macro(
    grouping: str, classes: int, accuracy: float, correlation: float, groups: int, photos: int,
    repeats: int,
) -> dict[str, Covered]:  # fmt: skip
    """Return how often the intervals of macro recall and macro F1 hold the truth."""
    random = np.random.default_rng(0)
    apart = min(_APART, accuracy - 0.02, 0.98 - accuracy)
    of_class = accuracy + apart * np.where(np.arange(classes) % 2, 1, -1)
    # What is taken for a class comes from all others alike.
    taken = of_class + ((1 - of_class).sum() - (1 - of_class)) / (classes - 1)
    truths = {"recall": of_class.mean(), "f1": (2 * of_class / (1 + taken)).mean()}
    intervals = {"recall": recall_interval, "f1": f1_interval}
    clusters = Clusters(np.repeat(np.arange(groups), photos), groups)
    hits = {name: np.zeros(3) for name in truths}
    for _ in range(repeats):
        targets, predicted = _answers(random, grouping, of_class, correlation, groups, photos)
        for name, truth in truths.items():
            low, high = intervals[name](targets, predicted, classes, clusters)
            below, above = intervals[name](targets, predicted, classes, None)
            hits[name] += (low <= truth <= high, below <= truth <= above, high - low)
    return {name: Covered(*(found / repeats).tolist()) for name, found in hits.items()}


def _answers(
    random: np.random.Generator, grouping: str, of_class: Floats, correlation: float, groups: int,
    photos: int,
) -> tuple[Ints, Ints]:  # fmt: skip
    """Draw the classes of photos that share groups, and what they are taken for."""
    classes, group = len(of_class), np.repeat(np.arange(groups), photos)
    if grouping == "objects":
        kind = np.arange(groups) % classes
        shares = np.array(
            [group_accuracies(random, "beta", of_class[k], correlation, 1)[0] for k in kind]
        )[group]
        targets, other = kind[group], (kind + random.integers(1, classes, groups))[group] % classes
    else:
        targets = np.arange(groups * photos) % classes
        spread = np.sqrt(correlation / (1 - correlation))
        middles = norm.ppf(of_class) * np.sqrt(1 + spread**2)
        shares = norm.cdf(middles[targets] + spread * random.standard_normal(groups)[group])
        other = (targets + random.integers(1, classes, len(targets))) % classes
    return targets, np.where(random.random(len(targets)) < shares, targets, other)


def main() -> None:
    """Print a row for each accuracy and correlation."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--groups", type=int, default=24)
    parser.add_argument("--photos", type=int, default=15, help="of each group")
    parser.add_argument("--repeats", type=int, default=2000)
    parser.add_argument("--macro", action="store_true", help="macro recall and macro F1")
    options = parser.parse_args()
    if options.macro:
        _print_macro(options)
        return
    print("| groups by | accuracy | correlation | ours | width | bootstrap | photos | paired |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for kind in ("beta", "probit"):
        for accuracy in ACCURACIES:
            for correlation in CORRELATIONS:
                ours, bootstrap, wilson, paired, width = covered(
                    kind, accuracy, correlation, options.groups, options.photos, options.repeats
                )
                print(
                    f"| {kind} | {accuracy} | {correlation} | {ours:.1%} | {width:.3f} |"
                    f" {bootstrap:.1%} | {wilson:.1%} | {paired:.1%} |", flush=True,
                )  # fmt: skip


def _print_macro(options: argparse.Namespace) -> None:
    print("| groups | classes | accuracy | correlation | macro recall | width | macro F1 | width |"
          " photos: recall | F1 |")  # fmt: skip
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for grouping in ("objects", "shops"):
        for classes in CLASSES:
            for accuracy in (0.6, 0.8, 0.95):
                for correlation in (0.1, 0.3, 0.7):
                    found = covered_macro(
                        grouping, classes, accuracy, correlation,
                        options.groups, options.photos, options.repeats,
                    )  # fmt: skip
                    recall, f1 = found["recall"], found["f1"]
                    print(
                        f"| {grouping} | {classes} | {accuracy} | {correlation} |"
                        f" {recall.covers:.1%} | {recall.width:.3f} | {f1.covers:.1%} |"
                        f" {f1.width:.3f} | {recall.photos_cover:.1%} | {f1.photos_cover:.1%} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
