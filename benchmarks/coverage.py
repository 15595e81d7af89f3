"""How often 95 % intervals hold the true accuracy where photos share groups: a simulation.

python -m benchmarks.coverage --groups 24 --photos 15 --repeats 2000

Each group has an accuracy of its own, around the true one; its photos are right with it. That gives
photos of a group the correlation that is asked for. `beta` draws the accuracies of groups from a
beta distribution, `probit` from a normal one behind a probit. The intervals are those that reports
use, beside Wilson's over photos and the percentiles of a cluster bootstrap. The last column is that
of a difference of two models, whose errors are correlated, too; its truth is 0.
"""

import argparse

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from training.evaluation.clusters import Clusters
from training.evaluation.intervals import accuracy_interval, paired_interval, wilson_of

ACCURACIES = (0.6, 0.7, 0.8, 0.9, 0.95)
CORRELATIONS = (0.1, 0.3, 0.5, 0.7)
_RESAMPLES = 400

Floats = NDArray[np.float64]


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


def main() -> None:
    """Print a row for each accuracy and correlation."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--groups", type=int, default=24)
    parser.add_argument("--photos", type=int, default=15, help="of each group")
    parser.add_argument("--repeats", type=int, default=2000)
    options = parser.parse_args()
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


if __name__ == "__main__":
    main()
