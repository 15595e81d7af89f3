"""The release gate's rules on answers that are made up, so that each rule decides alone."""

import itertools

import pytest

from flows.release_gate.gate import Rules, judge
from training.evaluation.intervals import mcnemar

LABELS = ("김밥", "라면", "전")


def answers(truth: list[str], wrong: set[int]) -> list[str]:
    """Answer rightly but for the photos of these numbers."""
    return ["other" if i in wrong else label for i, label in enumerate(truth)]


def asked(champion: set[int] | None, challenger: set[int], *, each: int = 40, **rules):
    """Judge models that are wrong on these of `each` photos a class."""
    truth = [label for label in LABELS for _ in range(each)]
    return judge(
        truth,
        answers(truth, challenger),
        None if champion is None else answers(truth, champion),
        labels=LABELS,
        champion_labels=LABELS if champion is not None else (),
        rules=Rules(**rules),
    )


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (5, 0), (7, 3), (3, 7), (20, 12)])
def test_mcnemar_counts_the_tosses_of_a_coin(gained, lost):
    """The chance is that of as many heads or more, counted toss by toss."""
    n = gained + lost
    if n > 12:
        expected = pytest.approx(0.10766, abs=1e-4)  # binom.test(20, 32, alternative="greater")
    else:
        heads = [sum(tosses) for tosses in itertools.product((0, 1), repeat=n)]
        expected = pytest.approx(sum(h >= gained for h in heads) / len(heads))

    assert expected == mcnemar(gained, lost, one_sided=True)


def test_a_model_that_is_better_beyond_chance_is_promoted():
    """Five photos gained and none lost have a chance of 1/32; four have 1/16."""
    better, as_good = asked({0, 1, 2, 3, 4}, set()), asked({0, 1, 2, 3}, set())

    assert better.promote
    assert "+5 -0 photos, p 0.0312" in better.reason
    assert not as_good.promote
    assert "not better beyond chance: +4 -0 photos, p 0.0625" in as_good.reason


@pytest.mark.parametrize("test", ["mcnemar", "bootstrap"])
def test_the_same_model_and_a_worse_one_are_kept_out(test):
    """Equal answers are no gain, by either test."""
    assert not asked({1, 50}, {1, 50}, test=test).promote
    assert not asked({1}, {1, 2, 3, 50, 51}, test=test).promote


def test_the_bootstrap_weighs_classes_and_not_photos():
    """A rare class that gains much outweighs a common one that loses a little."""
    truth = ["rare"] * 10 + ["common"] * 500
    champion, challenger = answers(truth, set(range(8))), answers(truth, set(range(10, 22)))

    def by(test):
        return judge(truth, challenger, champion, labels=("common", "rare"),
                     champion_labels=("common", "rare"), rules=Rules(test=test))  # fmt: skip

    assert not by("mcnemar").promote
    assert by("bootstrap").promote
    low, high = by("bootstrap").recall_interval
    assert low < by("bootstrap").recall_difference < high


def test_a_class_that_collapses_holds_a_better_model():
    """Far better altogether, and one class lost more recall than the set amount."""
    verdict = asked(set(range(30)), set(range(40, 47)))

    assert (30, 7) == (verdict.gained, verdict.lost)
    assert not verdict.promote
    assert "'라면' collapses: recall 100.0% to 82.5%" in verdict.reason
    assert asked(set(range(30)), set(range(40, 46))).promote, "15 % is not more than 15 %"
    assert asked(set(range(30)), set(range(40, 47)), max_recall_drop=0.2).promote


def test_one_photo_of_a_tiny_class_is_no_collapse():
    """With three photos a class, one photo is a third of the recall."""
    truth = ["tiny"] * 3 + ["common"] * 97
    verdict = judge(truth, answers(truth, {0}), answers(truth, set(range(3, 20))),
                    labels=("tiny", "common"), champion_labels=("tiny", "common"))  # fmt: skip

    assert verdict.promote


def test_a_first_release_has_nothing_to_beat_but_a_floor_if_one_is_set():
    """Nothing serves: any model is better, unless a least accuracy is asked for."""
    assert asked(None, set(range(100))).promote
    assert "nothing serves yet" in asked(None, set()).reason
    assert not asked(None, set(range(100)), min_top1=0.5).promote


def test_a_changed_class_list_is_compared_on_what_both_know():
    """A new class needs a least recall; the others must not be worse; nothing must be better."""
    truth = ["a"] * 30 + ["b"] * 30 + ["new"] * 30
    known = {"labels": ("a", "b", "new"), "champion_labels": ("a", "b", "gone")}
    champion = answers(truth, set(range(60, 90)))  # it cannot know the new one

    as_good = judge(truth, answers(truth, {60}), champion, **known)
    worse = judge(truth, answers(truth, set(range(8))), champion, **known)
    unlearnt = judge(truth, answers(truth, set(range(60, 89))), champion, **known)

    assert ("changed classes", ("new",), ("gone",)) == (
        as_good.case, as_good.added, as_good.removed,
    )  # fmt: skip
    assert as_good.promote
    assert 60 == as_good.photos
    assert not worse.promote
    assert "worse on the classes that both know (-8 +0 photos)" in worse.reason
    assert not unlearnt.promote
    assert "new class 'new' is not learnt: recall 3.3%" in unlearnt.reason


def test_no_shared_class_is_a_first_release():
    """Another set of dishes altogether has nothing to be compared with."""
    verdict = judge(["x", "y"], ["x", "y"], ["a", "a"], labels=("x", "y"), champion_labels=("a",))

    assert verdict.promote
    assert "no class is shared" in verdict.reason


def test_the_weights_that_serve_need_be_no_better_in_another_precision():
    """They cannot be: no worse is enough. A class must not collapse all the same."""
    truth = ["a"] * 50 + ["b"] * 50
    labels = {"labels": ("a", "b"), "champion_labels": ("a", "b"), "same_weights": True}
    champion = answers(truth, {0, 1})

    alike = judge(truth, answers(truth, {0, 1, 2}), champion, **labels)
    worse = judge(truth, answers(truth, set(range(30))), champion, **labels)

    assert alike.promote
    assert "the same weights, in another precision or threshold, and what both" in alike.reason
    assert not worse.promote
    assert not judge(
        truth, champion, champion, labels=("a", "b"), champion_labels=("a", "b")
    ).promote
