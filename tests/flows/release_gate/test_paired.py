"""What two models' answers differ by: worked out by hand, by photo and by group."""

import numpy as np
import pytest

from flows.release_gate.gate import ClassRow, Rules, judge
from flows.release_gate.paired import paired
from training.evaluation.clusters import Clusters, leaving_out
from training.evaluation.intervals import mcnemar

TRUTH = ["a"] * 4 + ["b"] * 6


def right(*numbers: int, of: int = 10) -> np.ndarray:
    """Return which photos are answered rightly."""
    return np.isin(np.arange(of), numbers)


def test_photos_are_gained_and_lost_one_by_one():
    """Photos 0 to 2 are gained, 9 is lost: each is counted in its class."""
    found = paired(TRUTH, right(0, 1, 2, 4, 5), right(4, 5, 9), (), 0.05)

    assert (3, 1, 0, "") == (found.gained, found.lost, found.groups, found.over)
    assert mcnemar(3, 1, one_sided=True) == found.p_better
    assert mcnemar(1, 3, one_sided=True) == found.p_worse
    assert (3 / 4 - 1 / 6) / 2 == pytest.approx(found.recall)


def test_the_bootstraps_interval_is_that_of_binomial_counts():
    """One class of 100 photos, 30 gained: the quantiles of Binomial(100, 0.3)."""
    from scipy.stats import binom

    truth = ["a"] * 100
    found = paired(truth, np.arange(100) < 30, np.zeros(100, bool), (), 0.05)
    wider = paired(truth, np.arange(100) < 30, np.zeros(100, bool), (), 0.01)
    worse = paired(truth, np.zeros(100, bool), np.arange(100) < 30, (), 0.05)

    expected = binom.ppf([0.05, 0.95], 100, 0.3) / 100
    assert tuple(expected) == pytest.approx(found.interval, abs=0.011)
    assert tuple(binom.ppf([0.01, 0.99], 100, 0.3) / 100) == pytest.approx(
        wider.interval, abs=0.021
    )
    assert tuple(-expected[::-1]) == pytest.approx(worse.interval, abs=0.011)
    again = paired(truth, np.arange(100) < 30, np.zeros(100, bool), (), 0.05)
    assert found == again


def test_where_photos_share_groups_whole_groups_are_gained():
    """Of five groups of two photos, three are gained and one is lost."""
    groups = [name for name in "vwxyz" for _ in range(2)]
    mine, theirs = right(0, 1, 2, 3, 4, 5, 6, 7), right(6, 7, 8, 9)

    found = paired(["a"] * 10, mine, theirs, groups, 0.05)

    assert (6, 2, 5, " over 5 groups") == (found.gained, found.lost, found.groups, found.over)
    # As many heads of four coins or more: 3 or 4 for gains, 1 to 4 for losses.
    assert 5 / 16 == pytest.approx(found.p_better)
    assert 15 / 16 == pytest.approx(found.p_worse)
    assert 0.4 == pytest.approx(found.recall)
    without = [(6 - 2 - change) / 8 for change in (2, 2, 2, 0, -2)]
    assert leaving_out(0.4, np.array(without), 0.1) == pytest.approx(found.interval)


def test_a_class_that_one_group_has_alone_counts_no_more_without_it():
    """Leaving out a group leaves out its class, and the mean is over those that are left."""
    truth, groups = ["a", "a", "a", "a", "b", "b"], ["v", "v", "w", "w", "x", "x"]

    found = paired(truth, right(0, 1, 4, of=6), right(of=6), groups, 0.05)

    assert (2 / 4 + 1 / 2) / 2 == pytest.approx(found.recall)
    without = [(0 / 2 + 1 / 2) / 2, (2 / 2 + 1 / 2) / 2, 2 / 4]
    assert leaving_out(0.5, np.array(without), 0.1) == pytest.approx(found.interval)
    assert 3 == Clusters.of(groups).count == found.groups


def test_the_gate_counts_groups_and_says_so():
    """Twelve photos of one object gained are one toss of a coin; of twelve objects they are not."""
    truth, wrong = ["a"] * 24, ["b"] * 12 + ["a"] * 12
    names = {"labels": ("a", "b"), "champion_labels": ("a", "b")}

    def by(groups, **rules):
        return judge(truth, truth, wrong, groups=groups, rules=Rules(**rules), **names)

    one = by(["cup"] * 12 + ["bowl"] * 12)
    twelve = by([f"cup {number // 2}" for number in range(24)])
    assert (False, 2, 0.5) == (one.promote, one.groups, pytest.approx(one.p_value))
    assert "McNemar over 2 groups, not below 0.05" in one.reason
    assert (True, 12) == (twelve.promote, twelve.groups)
    assert "McNemar over 12 groups, below 0.05" in twelve.reason
    assert by(["cup"] * 12 + ["bowl"] * 12, test="bootstrap").reason.endswith(
        ", jackknife over 2 groups)"
    )
    assert by((), test="bootstrap").reason.endswith(", bootstrap)")
    assert by((), test="bootstrap").reason.startswith("better: mean recall +50.00% (")
    assert "p 0.000244 (McNemar, below 0.05)" in by(()).reason


def test_a_class_has_its_counts_and_recalls():
    """Of each class, with nothing of the champion's where it does not know it."""
    truth = ["a"] * 4 + ["new"] * 2 + ["gone"] * 2
    mine = ["a", "a", "a", "x", "new", "x", "x", "x"]
    theirs = ["x", "a", "x", "a", "x", "x", "gone", "gone"]

    found = judge(truth, mine, theirs, labels=("a", "new", "unseen"),
                  champion_labels=("a", "gone", "unseen"))  # fmt: skip

    row = {"label": "a", "photos": 4, "champion": 0.5, "challenger": 0.75, "gained": 2, "lost": 1}
    assert found.classes == (
        ClassRow(**row),
        ClassRow(label="new", photos=2, champion=None, challenger=0.5, gained=0, lost=0),
        ClassRow(label="unseen", photos=0, champion=None, challenger=None, gained=0, lost=0),
    )
    assert (4, 0.75, 0.5, 2, 1) == (
        found.photos, found.challenger_top1, found.champion_top1, found.gained, found.lost,
    )  # fmt: skip
    assert (("new",), ("gone",)) == (found.added, found.removed)
    assert found.to_dict()["classes"][0] == row


@pytest.mark.parametrize(
    ("labels", "champion_labels", "case"),
    [
        (("a", "b"), ("a", "b"), "same classes"),
        (("a", "b", "new"), ("a", "b"), "changed classes"),
        (("a", "b"), ("a", "b", "gone"), "changed classes"),
    ],
)
def test_one_class_more_or_less_is_another_list(labels, champion_labels, case):
    """Then no worse is enough; with the same classes equal answers are no gain."""
    truth = ["a", "b"] * 5

    found = judge(truth, truth, truth, labels=labels, champion_labels=champion_labels)

    assert (case, case == "changed classes") == (found.case, found.promote)


def test_a_first_release_says_what_it_found():
    """No champion's figures, every class new, and the floor with both figures if it is missed."""
    truth = ["a"] * 3 + ["b"]
    found = judge(truth, ["a", "a", "b", "b"], None, labels=("a", "b"), rules=Rules(min_top1=0.75))

    assert found.promote
    assert "first release: nothing serves yet, so there is nothing to beat" == found.reason
    assert ("first release", 4, 0.75) == (found.case, found.photos, found.challenger_top1)
    assert (None, None, None, None) == (
        found.champion_top1, found.p_value, found.recall_difference, found.recall_interval,
    )  # fmt: skip
    assert (0, 0, 0, ("a", "b"), ()) == (
        found.gained, found.lost, found.groups, found.added, found.removed,
    )  # fmt: skip
    assert [(3, 2 / 3, None, 0), (1, 1, None, 0)] == [
        (row.photos, pytest.approx(row.challenger), row.champion, row.gained)
        for row in found.classes
    ]
    low = judge(truth, ["a", "a", "b", "b"], None, labels=("a", "b"), rules=Rules(min_top1=0.76))
    assert not low.promote
    assert "top-1 is 75.00%, and 76.00% are asked for" == low.reason


def test_all_that_holds_a_model_back_is_told():
    """Too low, a class collapsed, a new class not learnt: one sentence each."""
    truth = ["a"] * 10 + ["b"] * 10 + ["new"] * 10
    mine = ["x"] * 10 + ["b"] * 10 + ["x"] * 7 + ["new"] * 3
    known = {"labels": ("a", "b", "new"), "champion_labels": ("a", "b")}

    found = judge(truth, mine, truth, rules=Rules(min_top1=0.5, min_new_recall=0.31), **known)

    assert not found.promote
    assert (
        "worse on the classes that both know (-10 +0 photos); top-1 is 43.33%, and 50.00% are"
        " asked for; class 'a' collapses: recall 100.0% to 0.0%; new class 'new' is not learnt:"
        " recall 30.0%"
    ) == found.reason
    learnt = judge(truth, [*truth[:20], *mine[20:]], truth, **known)
    assert learnt.promote, "a recall of exactly the limit is enough"
    assert "the class list changed, and what both know is no worse (+0 -0)" == learnt.reason


def test_a_collapse_is_more_than_the_drop_and_more_than_a_photo():
    """Net of what the class gained; a class that only the other model knows cannot collapse."""
    truth = ["a"] * 20 + ["b"] * 20
    labels = {"labels": ("a", "b"), "champion_labels": ("a", "b")}

    def held(lost: int, gained: int, **rules) -> bool:
        mine = ["x"] * lost + ["a"] * (20 - lost) + ["b"] * 20
        theirs = ["a"] * (20 - gained) + ["x"] * gained + ["x"] * 20
        return "collapses" in judge(truth, mine, theirs, rules=Rules(**rules), **labels).reason

    assert not held(3, 0)
    assert held(4, 0)
    assert not held(4, 1)
    assert held(5, 1)
    assert not held(4, 0, min_photos_lost=5)
    assert held(4, 0, min_photos_lost=4)
    assert not held(5, 1, min_photos_lost=5), "net of what it gained"


def test_a_chance_of_exactly_alpha_is_not_below_it():
    """Five photos of five have one of 1/32: not better by that alpha, and not worse either."""
    truth = ["a"] * 5 + ["b"] * 5
    labels = {"labels": ("a", "b"), "champion_labels": ("a", "b")}
    wrong = ["a"] * 5 + ["x"] * 5

    def promoted(mine, theirs, alpha, **how) -> bool:
        rules = Rules(alpha=alpha, min_photos_lost=9)
        return judge(truth, mine, theirs, rules=rules, **labels, **how).promote

    assert not promoted(truth, wrong, 1 / 32)
    assert promoted(truth, wrong, 1 / 31)
    assert promoted(wrong, truth, 1 / 32, same_weights=True)
    assert not promoted(wrong, truth, 1 / 31, same_weights=True)


def test_why_a_model_need_not_be_better_is_told():
    """Nothing to compare with, or the weights that serve already."""
    other = judge(["x"], ["x"], ["a"], labels=("x",), champion_labels=("a",))
    labels = {"labels": ("x",), "champion_labels": ("x",)}
    same = judge(["x"], ["x"], ["x"], same_weights=True, **labels)

    assert (
        "first release: no class is shared with what serves, so there is nothing to beat"
        == other.reason
    )
    assert (
        "the same weights, in another precision or threshold, and what both know is no worse"
        " (+0 -0)"
    ) == same.reason
