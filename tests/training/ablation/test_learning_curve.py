"""Learning from fewer photos, and what a curve through such runs says about more of them."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from training.ablation.learning_curve import MORE, curve_through
from training.data.sampler import Sampler, at_most
from training.errors import ConfigError
from training.evaluation.metrics import Predictions


def test_few_photos_are_some_of_more_and_fill_an_epoch():
    """Of 40 and 10 photos, 5 of each class come equally often; they are 5 of any 8, too."""
    targets = np.array([0] * 40 + [1] * 10)
    hashes = [f"{number * 7919 % 101:03}" for number in range(50)]
    few, more = (at_most(targets, hashes, count) for count in (5, 8))

    sampler = Sampler(targets, 10, seed=0, only=few)
    seen = np.concatenate([sampler.rows(step) for step in range(sampler.steps_before(1))])

    assert set(few) <= set(more)
    assert [5, 5] == np.bincount(targets[few]).tolist()
    assert [8, 8] == np.bincount(targets[more]).tolist()
    assert {5} == set(np.bincount(seen)[few].tolist())
    assert 50 == len(seen)
    # A new photo takes the place of one of its class at the most, and of none of another.
    after = at_most(np.append(targets, 0), [*hashes, "000!"], 5)
    assert 1 == len(set(few) - set(after))


LEARNT = np.array([[5] * 12, [10] * 12, [20] * 12, [*range(20, 80, 5)]])
"""Photos of 12 classes in four arms; all have 20 and up to 75."""
LEVELS, OWN, ALL = np.linspace(-2.5, 0, 12), 1.0, -0.4


def true_recall(learnt: np.ndarray) -> np.ndarray:
    """Return the recall that is simulated: a class gains by its photos, and loses by others'."""
    return 1 / (1 + np.exp(-(LEVELS + OWN * np.log(learnt) + ALL * np.log(learnt.mean()))))


def test_a_curve_finds_what_more_photos_bring():
    """Of 60 simulated studies, nine tenths of the 95 % intervals hold the truth, or more."""
    random = np.random.default_rng(3)
    targets = np.repeat(np.arange(12), 40)
    labels = [f"class {k}" for k in range(12)]
    files = tuple(f"{n}.jpg" for n in range(len(targets)))
    now = LEARNT[-1]
    doubled = (true_recall(2 * now) - true_recall(now)).mean()
    worth = [
        (true_recall(now + MORE * (np.arange(12) == k)) - true_recall(now)).mean()
        for k in range(12)
    ]
    held, held_classes, first = 0, 0, []
    for _ in range(60):
        # One threshold a photo: what fewer photos get right, more get right, mostly.
        hard = random.random(len(targets))
        right = np.array([hard < true_recall(row)[targets] for row in LEARNT], float)
        answers = Predictions(
            np.eye(12, dtype=np.float32)[np.where(right[-1] > 0, targets, (targets + 1) % 12)],
            targets, files,
        )  # fmt: skip
        found = curve_through(right, LEARNT, answers, labels)
        held += found.doubled[1] <= doubled <= found.doubled[2]
        by_label = {each.label: each for each in found.classes}
        held_classes += sum(
            by_label[label].low <= worth[k] <= by_label[label].high
            for k, label in enumerate(labels)
        )
        first.append(labels.index(found.classes[0].label))
        assert found.predicted == pytest.approx(found.top1[-1], abs=0.15)
        assert all(
            each.taken_for in ("", labels[(labels.index(each.label) + 1) % 12])
            for each in found.classes
        )
    assert held >= 54
    assert held_classes >= 0.9 * 60 * 12
    # Those that have the fewest photos gain most here: the first classes.
    assert np.mean(np.array(first) < 5) > 0.8


@pytest.mark.usefixtures("thin")
def test_a_study_of_photos_says_which_would_pay(dishes, tmp_path, open_page):
    """`hansang study photos`: arms of 4, 8 and all photos, a curve, a page, and wrong numbers."""
    from hansang import app

    def study(per_class: str):
        return CliRunner().invoke(
            app, ["study", "photos", str(dishes), "--photos-per-class", per_class, "--epochs", "2",
                  "--seeds", "1", "--threads", "1", "--image-size", "32", "--runs-dir",
                  str(tmp_path / "runs"), "--cache-dir", str(tmp_path / "cache"), "--name", "p",
                  "--json"],
        )  # fmt: skip

    done = study("8, 4,99")
    assert 0 == done.exit_code, done.output
    found = json.loads(done.stdout)
    assert ["photos4", "photos8", "all"] == [arm["name"] for arm in found["arms"]]
    assert [4, 8, 16] == found["curve"]["photos"]
    assert 3 == len(found["curve"]["classes"])
    assert "would pay most" in found["conclusion"][0]
    runs = [Path(arm["runs"][0]) for arm in found["arms"]]
    steps = {json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["steps"]
             for run in runs}  # fmt: skip
    assert 1 == len(steps)
    page = open_page(tmp_path / "runs" / "p" / "report.html", width=390)
    assert "Photos that would pay" in page.inner_text("body")
    assert [] == page.complaints

    for wrong, says in (("4,x", "give numbers"), ("0", "give numbers"), ("16", "smaller")):
        refused = study(wrong)
        assert isinstance(refused.exception, ConfigError)
        assert says in str(refused.exception)
