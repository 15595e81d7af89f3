"""Intervals and tests equal SciPy's, or what is worked out by hand."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest, norm, sem, t

from training.evaluation import clusters, intervals
from training.evaluation.clusters import Clusters
from training.evaluation.intervals import (
    accuracy_interval,
    mcnemar,
    mean_interval,
    paired_interval,
    wilson,
    wilson_of,
)

CLUSTERS = Clusters.of(["a", "a", "b", "b", "b", "c"])


@pytest.mark.parametrize(
    ("right", "asked"), [(0, 1), (0, 7), (3, 4), (8, 10), (7, 7), (61, 100), (1763, 1764)]
)
def test_the_interval_of_an_accuracy_is_scipys(right, asked):
    """Wilson's, for few photos and many, up to both ends; by counts and photo by photo."""
    expected = binomtest(right, asked).proportion_ci(0.95, method="wilson")

    assert pytest.approx((expected.low, expected.high), abs=1e-12) == wilson_of(right, asked)
    assert wilson_of(right, asked) == accuracy_interval(np.arange(asked) < right, None)


def test_classes_have_their_intervals_at_once_and_at_any_level():
    """A class without photos has none, and the others are as alone."""
    low, high = wilson([3, 0, 8], [4, 0, 10])
    assert np.isnan([low[1], high[1]]).all()
    assert [(low[0], high[0]), (low[2], high[2])] == [wilson_of(3, 4), wilson_of(8, 10)]

    narrow = binomtest(8, 10).proportion_ci(0.6, method="wilson")
    assert pytest.approx((narrow.low, narrow.high)) == wilson(8, 10, norm.ppf(0.8))


def test_seeds_that_share_photos_count_as_parts_of_one():
    """A photo that two of three seeds get right is two thirds of one that is right."""
    assert wilson_of(2.5, 4) == pytest.approx(accuracy_interval([1, 2 / 3, 1 / 2, 1 / 3], None))


def test_the_interval_of_a_difference_is_that_of_agresti_and_min():
    """Five photos gained and two lost of twenty, with half a photo added to each outcome."""
    each = np.array([1] * 5 + [-1] * 2 + [0] * 13, np.float64)

    middle, half = paired_interval(each)

    assert 3 / 22 == pytest.approx(middle)
    assert norm.ppf(0.975) * math.sqrt((5.5 + 2.5) - 3**2 / 22) / 22 == pytest.approx(half)
    assert (0, pytest.approx(norm.ppf(0.975) / 22)) == paired_interval(np.zeros(20))


def test_photos_that_share_groups_have_the_intervals_of_clusters():
    """Of one accuracy, and of a difference."""
    right = np.array([1, 1, 0, 1, 0, 1])
    each = np.array([1.0, 0, -1, 1, 0, 0])

    assert clusters.interval(right, CLUSTERS) == accuracy_interval(right, CLUSTERS)
    assert clusters.paired(each, CLUSTERS) == paired_interval(each, CLUSTERS)
    assert accuracy_interval(right, CLUSTERS) != accuracy_interval(right, None)
    assert paired_interval(each, CLUSTERS) != paired_interval(each)


@pytest.mark.parametrize(("gained", "lost"), [(1, 0), (5, 0), (7, 3), (3, 7), (4, 4)])
def test_mcnemar_tosses_a_coin(gained, lost):
    """One-sided as many heads or more; two-sided as unequal in either way."""
    coin = [math.comb(gained + lost, heads) / 2 ** (gained + lost) for heads in range(11)]
    fewer = min(gained, lost)

    assert sum(coin[gained:]) == pytest.approx(mcnemar(gained, lost, one_sided=True))
    assert min(1, 2 * sum(coin[: fewer + 1])) == pytest.approx(mcnemar(gained, lost))


def test_models_that_never_differ_are_no_evidence():
    """No photo gained or lost: p is 1."""
    assert 1 == mcnemar(0, 0) == mcnemar(0, 0, one_sided=True)


def test_the_mean_of_seeds_has_students_interval():
    """As wide as SciPy's; a lone seed has no width."""
    values = [60.0, 62.0, 67.0]
    middle, half = mean_interval(values)

    assert 63 == pytest.approx(middle)
    assert t.interval(0.95, 2, loc=63, scale=sem(values)) == pytest.approx(
        (middle - half, middle + half)
    )
    assert (61.5, 0) == mean_interval([61.5])


def test_what_is_counted_is_named():
    """Groups where photos share them, photos otherwise."""
    assert "Wilson over photos" == intervals.method(0)
    assert "Wilson over 24 groups" == intervals.method(24)
    assert "over photos" == intervals.over(0)
    assert "over 24 groups" == intervals.over(24)
