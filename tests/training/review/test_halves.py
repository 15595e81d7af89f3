"""Classes in two halves: found where there are two kinds of photos, and shown on the page."""

import json

import numpy as np
import pytest

from tests.training.review.drawn import CLASSES, review_of
from training.review.halves import halved
from training.review.out_of_fold import Answers

PER_CLASS, FOLDS, WIDTH = 100, 4, 24


def seen_by(apart: float, *, learned: float = 3.0, seed: int = 0) -> Answers:
    """Return what four models see of three classes; the photos of class 1 are of two kinds.

    Each model sees the photos that it learned from `learned` away from those that it did not.
    """
    rng = np.random.default_rng(seed)
    count = 3 * PER_CLASS
    fold_of = np.arange(count) % FOLDS
    kind = np.where(np.arange(count) // PER_CLASS == 1, (np.arange(count) // FOLDS) % 2, 0)
    photos = rng.standard_normal((count, WIDTH))
    photos[:, 0] += apart * kind
    features = []
    for fold in range(FOLDS):
        turned = np.linalg.qr(rng.standard_normal((WIDTH, WIDTH)))[0]
        one = photos @ turned + 10 * rng.standard_normal(WIDTH)
        one[fold_of != fold] += learned * rng.standard_normal(WIDTH)
        features.append(one.astype(np.float32))
    nothing = np.zeros(0, np.float32)
    return Answers(nothing, fold_of, tuple(features), (nothing,), (nothing,), ())


def found_in(answers: Answers) -> list:
    """Return the classes that fall into halves, each photo named by its number."""
    targets = np.arange(3 * PER_CLASS) // PER_CLASS
    files = [f"train/{CLASSES[target]}/{at}.jpg" for at, target in enumerate(targets)]
    return halved(answers, targets, files, CLASSES[:3])


@pytest.mark.parametrize("seed", range(3))
def test_two_kinds_under_one_label_are_told_apart(seed):
    """That class alone is found, though models see what they learned apart from the rest."""
    (one,) = found_in(seen_by(8.0, seed=seed))
    assert CLASSES[1] == one.label
    assert one.score >= 5
    assert PER_CLASS == sum(map(len, one.halves))
    kinds = [{(int(name.split("/")[-1][:-4]) // FOLDS) % 2 for name in half} for half in one.halves]
    assert [{0}, {1}] == sorted(kinds, key=min)


@pytest.mark.parametrize("seed", range(3))
def test_one_kind_is_not_parted(seed):
    """Neither by what a model learned from, nor by chance."""
    assert [] == found_in(seen_by(0.0, learned=30.0, seed=seed))


def test_few_photos_are_left_alone():
    """Halves of a handful would mean nothing."""
    answers = seen_by(8.0)
    few = Answers(
        answers.probabilities, answers.fold_of[:20],
        tuple(each[100:120] for each in answers.features), answers.heads, answers.biases, (),
    )  # fmt: skip
    assert [] == halved(few, np.zeros(20, np.int64), [str(at) for at in range(20)], ["egg"])


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_shows_examples_of_each_half(opened, data, width, expect):
    """On the first page: the class, how many are in each half, and what they look like."""
    review = review_of(data)
    photos = [one["photo"] for one in review["suspects"]]
    gone = "train/egg/gone.jpg"
    review["halved"] = [
        {"label": "김밥", "score": 7.1, "halves": [[*photos[:8]], [gone, *photos[8:11]]]},
        {"label": "<b>egg", "score": 4.2, "halves": [photos[11:13], photos[13:14]]},
    ]
    page = opened(json.loads(json.dumps(review)), width=width)
    if width == 390:
        page.get_by_text("Filter and sort").click()
    page.get_by_text("Classes that fall into two halves").click()
    parts = page.locator("#halved section")
    expect(parts).to_have_count(2)
    expect(parts.nth(0)).to_contain_text("8 photos like these")
    expect(parts.nth(0)).to_contain_text("4 photos like these")
    expect(parts.nth(1)).to_contain_text("<b>egg")
    pictures = parts.nth(0).locator("img")
    expect(pictures).to_have_count(6 + 3)
    shown = pictures.evaluate_all("all => all.every((one) => one.complete && one.naturalWidth)")
    assert shown
    assert page.evaluate("() => document.documentElement.scrollWidth - innerWidth") <= 0
    assert [] == page.complaints


def test_a_review_without_halves_has_no_such_part(opened, expect):
    """Captured photos, and folders whose classes are whole."""
    page = opened()
    expect(page.locator("#halved")).to_have_count(0)
