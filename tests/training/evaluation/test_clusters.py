"""Intervals of photos that share groups: what they cover, and what they are without groups."""

import numpy as np
import pytest

from benchmarks.learning.coverage import covered, covered_macro
from training.evaluation.clusters import Clusters, interval, paired, sign_flips
from training.evaluation.intervals import accuracy_interval, mcnemar, paired_interval, wilson_of
from training.evaluation.macro import f1_interval, recall_interval
from training.evaluation.metrics import Predictions, confusion, designs_of, per_class, scores


@pytest.mark.parametrize(("accuracy", "correlation"), [(0.6, 0.1), (0.8, 0.5), (0.9, 0.3)])
def test_intervals_hold_for_new_groups(accuracy, correlation):
    """24 groups of 15 photos that err together: 93 to 97 % hold the truth, as Wilson's do not."""
    ours, _, photos, differences, _ = covered("beta", accuracy, correlation, 24, 15, 1500)

    # Of 1,500 draws, two standard errors are 1.1 points.
    assert 0.93 - 0.011 <= ours <= 0.97 + 0.011
    assert photos < 0.85
    assert 0.92 <= differences


@pytest.mark.parametrize("grouping", ["objects", "shops"])
def test_intervals_of_macro_figures_hold_for_new_groups(grouping):
    """Means over classes, whose groups are objects of one class, or shops that sell all classes."""
    found = covered_macro(grouping, 8, 0.8, 0.3, 24, 15, 600)

    for name in ("recall", "f1"):
        # Of 600 draws, two standard errors are 1.8 points.
        assert 0.93 - 0.018 <= found[name].covers <= 0.98
        assert found[name].photos_cover < 0.85


def test_macro_figures_without_a_mistake_are_still_uncertain():
    """All right, all wrong, a class that one photo has: within 0 to 1, wide, and no NaN."""
    targets = np.array([0] * 9 + [1])
    clusters = Clusters(np.arange(10) // 3, 4)
    for predicted in (targets, 1 - targets, np.zeros(10, np.int64)):
        for interval_of in (recall_interval, f1_interval):
            for groups in (None, clusters):
                low, high = interval_of(targets, predicted, 3, groups)

                assert 0 <= low < high <= 1
                assert high - low > 0.25


def test_groups_of_one_photo_are_photos():
    """Without a shared group, Wilson's interval and McNemar's test are what they were."""
    right = np.array([1.0] * 17 + [0.0] * 3)

    assert Clusters.of(["", "", "a", "b"]) is None
    assert wilson_of(17, 20) == accuracy_interval(right, None)
    for gained, lost in ((8, 2), (0, 0), (3, 3)):
        flips = [1] * gained + [-1] * lost
        assert mcnemar(gained, lost) == pytest.approx(sign_flips(flips))
        assert mcnemar(gained, lost, one_sided=True) == pytest.approx(
            sign_flips(flips, one_sided=True)
        )


def test_photos_that_differ_together_count_once():
    """24 photos gained in one group may be chance; in 24 groups they are not."""
    assert 0.5 == sign_flips([24], one_sided=True)
    assert sign_flips([1] * 24, one_sided=True) < 1e-6
    assert 0.25 == pytest.approx(sign_flips([5, 7], one_sided=True))


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_intervals_stay_within_bounds_where_little_is_known(share):
    """All right, all wrong, one group: the interval is wide, within 0 to 1, and no NaN."""
    for count in (1, 2, 5):
        clusters = Clusters(np.repeat(np.arange(count), 10), count)
        right = (np.arange(count * 10) % 10 < share * 10).astype(np.float64)
        low, high = interval(right, clusters)
        wide = wilson_of(float(right.sum()), len(right))

        assert 0 <= low <= wide[0] + 1e-12
        assert wide[1] - 1e-12 <= high <= 1
        assert np.isfinite(paired(right - right[::-1], clusters)).all()


def test_a_difference_over_groups_is_less_certain():
    """The same gains are wider where they come in whole groups."""
    clusters = Clusters(np.repeat(np.arange(20), 10), 20)
    each = np.repeat([1.0] * 4 + [0.0] * 16, 10)

    assert paired_interval(each, clusters)[1] > 2 * paired_interval(each)[1]


def test_scores_and_classes_count_groups():
    """Every figure of a split is wider, and scores say over how many groups."""
    random = np.random.default_rng(0)
    targets = np.repeat(np.arange(4), 60)
    groups = tuple(f"{target}-{n // 15}" for n, target in enumerate(targets))
    bad = random.random(16) < 0.3
    wrong = bad[np.arange(240) // 15]
    p = np.full((240, 4), 0.1, np.float32)
    p[np.arange(240), np.where(wrong, (targets + 1) % 4, targets)] = 0.7
    files = tuple(map(str, range(240)))
    plain, grouped = Predictions(p, targets, files), Predictions(p, targets, files, groups)

    alone, shared = scores(plain), scores(grouped)
    matrix = confusion(targets, plain.predicted, 4)
    recall = per_class(matrix).recall
    over = per_class(matrix, designs_of(grouped, 4)).recall

    assert (0, 16) == (alone.groups, shared.groups)
    for name in ("top1_interval", "macro_recall_interval", "macro_f1_interval"):
        one, other = getattr(alone, name), getattr(shared, name)
        assert other[1] - other[0] > 1.5 * (one[1] - one[0])
    assert (over.high - over.low > 1.5 * (recall.high - recall.low)).all()
    assert (over.value == recall.value).all()
