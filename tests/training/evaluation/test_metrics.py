"""Every number of a report equals what is counted by hand, or scikit-learn's."""

import warnings

import numpy as np
import pytest

from training.errors import RunError
from training.evaluation import metrics
from training.evaluation.metrics import Predictions


def _random(seed, photos=400, classes=7, sharp=2.0):
    random = np.random.default_rng(seed)
    targets = random.choice(classes, photos, p=np.arange(1, classes + 1) / sum(range(classes + 1)))
    logits = random.normal(0, 1, (photos, classes))
    logits[np.arange(photos), targets] += sharp
    p = np.exp(logits - logits.max(1, keepdims=True))
    p = (p / p.sum(1, keepdims=True)).astype(np.float32)
    return Predictions(p, targets.astype(np.int64), tuple(f"val/{i}.jpg" for i in range(photos)))


@pytest.mark.parametrize("seed", range(4))
def test_numbers_of_a_split_equal_those_of_scikit_learn(seed):
    """Accuracies, log loss and macro F1, which are counted here, and those it is asked for."""
    from sklearn import metrics as sk

    found = _random(seed)
    p, targets, predicted = found.probabilities.astype(np.float64), found.targets, found.predicted
    p = p / p.sum(1, keepdims=True)
    labels = list(range(p.shape[1]))

    scores = metrics.scores(found)

    assert scores.top1 == pytest.approx(sk.accuracy_score(targets, predicted), rel=1e-12)
    assert scores.top5 == pytest.approx(
        sk.top_k_accuracy_score(targets, p, k=5, labels=labels), rel=1e-12
    )
    low, high = scores.macro_f1_interval
    assert low < scores.macro_f1 < high
    assert scores.macro_f1 == pytest.approx(sk.f1_score(targets, predicted, average="macro"))
    assert scores.macro_recall == pytest.approx(sk.balanced_accuracy_score(targets, predicted))
    assert scores.log_loss == pytest.approx(sk.log_loss(targets, p, labels=labels), rel=1e-6)
    brier = np.square(p - np.eye(len(labels))[targets]).sum(1).mean()
    assert scores.brier == pytest.approx(brier, rel=1e-12)


def test_rates_of_classes_are_those_counted_by_hand():
    """Rows are true classes; the third class has no photo, and the fourth is never predicted."""
    targets = np.array([0, 0, 0, 0, 1, 1, 1, 3])
    predicted = np.array([0, 0, 0, 1, 1, 1, 2, 0])

    matrix = metrics.confusion(targets, predicted, 5)
    found = metrics.per_class(matrix)

    rows = [[3, 1, 0, 0, 0], [0, 2, 1, 0, 0], [0] * 5, [1, 0, 0, 0, 0], [0] * 5]
    assert rows == matrix.tolist()
    assert [4, 3, 0, 1, 0] == found.support.tolist()
    assert [4, 3, 1, 0, 0] == found.predicted.tolist()
    nan = np.nan
    np.testing.assert_allclose(found.precision.value, [3 / 4, 2 / 3, 0, nan, nan])
    np.testing.assert_allclose(found.recall.value, [3 / 4, 2 / 3, nan, 0, nan])
    np.testing.assert_allclose(found.f1.value, [3 / 4, 2 / 3, 0, 0, nan])
    known = ~np.isnan(found.f1.value)
    assert (found.f1.low[known] <= found.f1.value[known]).all()
    assert (found.f1.value[known] <= found.f1.high[known]).all()


def test_reliability_is_scikit_learns_curve():
    """Bins hold what calibration_curve finds; the error is their mean gap, weighted by photos."""
    from sklearn.calibration import calibration_curve

    found = _random(9, photos=3000)
    confidence, right = found.probabilities.max(1), found.predicted == found.targets

    bins = metrics.reliability(found)

    share, sure = calibration_curve(right, confidence, n_bins=15)
    some = bins.count > 0
    np.testing.assert_allclose(bins.accuracy[some], share, rtol=1e-9)
    np.testing.assert_allclose(bins.confidence[some], sure, rtol=1e-6)
    gaps = bins.count[some] * np.abs(share - sure)
    assert bins.ece == pytest.approx(gaps.sum() / 3000, abs=1e-6)


def test_intervals_hold_the_truth_as_often_as_they_say():
    """Of 95 % intervals of recall and F1, drawn 600 times, 92 to 99 % hold the true rate."""
    random = np.random.default_rng(0)
    cells = np.array([[0.30, 0.05, 0.02], [0.06, 0.25, 0.04], [0.03, 0.05, 0.20]])
    recall = cells.diagonal() / cells.sum(1)
    f1 = 2 * cells.diagonal() / (cells.sum(0) + cells.sum(1))
    held_recall, held_f1 = [], []
    for _ in range(600):
        found = metrics.per_class(random.multinomial(150, cells.ravel()).reshape(3, 3))
        held_recall.append((found.recall.low <= recall) & (recall <= found.recall.high))
        held_f1.append((found.f1.low <= f1) & (f1 <= found.f1.high))

    assert ((0.92 < np.mean(held_recall, 0)) & (np.mean(held_recall, 0) < 0.99)).all()
    assert ((0.92 < np.mean(held_f1, 0)) & (np.mean(held_f1, 0) <= 1)).all()


def test_a_class_without_photos_or_answers_breaks_nothing():
    """Its rates are not numbers, and the means leave it out, without a warning."""
    p = np.array([[0.8, 0.1, 0.1], [0.7, 0.2, 0.1]], np.float32)
    found = Predictions(p, np.array([0, 1]), ("a", "b"))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        per_class = metrics.per_class(metrics.confusion(found.targets, found.predicted, 3))
        scores = metrics.scores(found)

    assert np.isnan(per_class.recall.value[2])
    assert np.isnan(per_class.f1.low[2])
    assert per_class.precision.value[0] == 0.5
    assert scores.macro_recall == 0.5
    assert scores.top5 is None


def test_confused_classes_stand_together():
    """Pairs that are taken for each other are neighbours in the order, wherever they began."""
    matrix = np.eye(8, dtype=np.int64) * 20
    for a, b in ((0, 5), (1, 7), (2, 4), (3, 6)):
        matrix[a, b] = matrix[b, a] = 8

    order = metrics.cluster_order(matrix).tolist()

    assert sorted(order) == list(range(8))
    for a, b in ((0, 5), (1, 7), (2, 4), (3, 6)):
        assert 1 == abs(order.index(a) - order.index(b))


def test_calibration_divides_the_logits():
    """Temperature 1 changes nothing; another gives the softmax of divided logits."""
    found = _random(3, photos=50)
    logits = np.log(found.probabilities.astype(np.float64))

    softer = np.exp(logits / 2)

    np.testing.assert_allclose(found.calibrated(1.0).probabilities, found.probabilities, rtol=1e-5)
    np.testing.assert_allclose(
        found.calibrated(2.0).probabilities, softer / softer.sum(1, keepdims=True), rtol=1e-5
    )


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"probabilities": np.ones((2, 3), np.float32)}, "does not sum to 1"),
        ({"probabilities": np.full((2, 3), np.nan, np.float32)}, "not a number"),
        ({"probabilities": np.full((2, 4), 0.25, np.float32)}, "do not fit 3 classes"),
        ({"targets": np.array([0, 3])}, "a target is no class"),
        ({"files": np.array(["a"])}, "do not fit"),
        ({"files": np.array([None, {}], object)}, "pickle"),
    ],
    ids=["sums", "NaN", "classes", "target", "files", "pickle"],
)
def test_damaged_predictions_are_an_error_that_names_them(tmp_path, arrays, problem):
    """What cannot be is refused with its reason; nothing is unpickled."""
    whole = {
        "probabilities": np.full((2, 3), 1 / 3, np.float32),
        "targets": np.array([0, 1]),
        "files": np.array(["a", "b"]),
    }
    np.savez(tmp_path / "predictions-val.npz", **{**whole, **arrays})

    with pytest.raises(RunError, match=problem):
        Predictions.load(tmp_path, "val", 3)
    assert Predictions.load(tmp_path, "test", 3) is None


def test_a_cut_file_of_predictions_is_an_error(tmp_path):
    """Half a file is damaged, not missing."""
    (tmp_path / "predictions-val.npz").write_bytes(b"PK\x03\x04 and no more")

    with pytest.raises(RunError, match="damaged"):
        Predictions.load(tmp_path, "val", 3)
