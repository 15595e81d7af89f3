"""Accuracy against coverage: what is answered at a threshold, and how often it is right."""

import numpy as np
import pytest

from training.evaluation import clusters as by_group
from training.evaluation.clusters import Clusters
from training.evaluation.intervals import wilson_of
from training.evaluation.selective import at, curve, halving

CONFIDENCE = np.array([0.95, 0.9, 0.8, 0.6, 0.4, 0.3])
RIGHT = np.array([True, True, True, False, True, False])


def test_a_threshold_answers_the_photos_that_reach_it():
    """Coverage is of all photos, accuracy of those that are answered, Wilson's interval with it."""
    found = at(0.6, CONFIDENCE, RIGHT)

    assert (4, 4 / 6, 0.75) == (found.photos, found.coverage, found.accuracy)
    assert wilson_of(3, 4) == pytest.approx(found.interval)
    assert at(0.96, CONFIDENCE, RIGHT) is None


def test_the_curve_has_a_point_for_each_threshold_that_changes_something():
    """From all photos on; between two confidences nothing changes."""
    points = curve(CONFIDENCE, RIGHT)

    assert [6, 5, 4, 3, 2, 1] == [point.photos for point in points]
    assert [0, 0.31, 0.41, 0.61, 0.81, 0.91] == [point.threshold for point in points]


def test_photos_that_share_groups_count_for_fewer():
    """The interval of what is answered is over the groups that are left."""
    groups = ["apple", "apple", "pear", "pear", "", ""]
    found = at(0.6, CONFIDENCE, RIGHT, Clusters.of(groups))

    left = Clusters.of(groups[:4])
    assert by_group.interval(RIGHT[:4], left) == found.interval
    low, high = wilson_of(3, 4)
    assert found.interval[1] - found.interval[0] > high - low


def test_the_threshold_that_halves_the_wrong_answers_is_the_lowest_such():
    """A third is wrong, so at most a sixth may be: not 0.41 (a quarter), but 0.61 (none)."""
    assert 0.61 == halving(curve(CONFIDENCE, RIGHT)).threshold
    assert halving(curve(CONFIDENCE, np.ones(6, bool))) is None
    assert halving(curve(np.full(6, 0.5), RIGHT)) is None
