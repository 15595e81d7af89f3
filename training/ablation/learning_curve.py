"""How recall grows with the photos of a class, and which classes more photos would help most.

log odds of the recall of class k =
    level of k + own x log(photos of k) + all x log(mean photos of a class)

of those that were learnt from. The second slope is negative: a class whose photos become more is
answered more often, at the expense of the others. All classes share both. Levels are drawn towards
their mean, since a class has few validation photos: it is a logistic regression with a normal prior
of the levels. Intervals come from drawing validation photos anew, whole groups where they share
some, 200 times.

Shapes: A arms, K classes, N validation photos.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.errors import RunError
from training.evaluation.clusters import Clusters, Floats, Ints
from training.evaluation.metrics import Predictions
from training.runs.run_record import RunRecord

Fit = tuple[Floats, Floats]
"""The levels, (K,), and the two slopes."""

MORE = 20
"""Photos of a class whose worth is said."""
_NAMED = 3
"""Classes that the sentence names."""
_DRAWS = 200
_PRIOR = 1.0
"""Inverse variance of the levels around their mean, in log odds."""
_SHARED_PRIOR = np.array([0.01, 0.01, 1.0])
"""Of the levels' mean and of the slopes. Where all classes have as many photos, only the sum of the
slopes shows; then it is taken for that of a class's own photos."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Worth:
    """What more photos of one class are worth, in accuracy over all photos, as fractions."""

    label: str
    photos: int
    """That the whole set has of it, to learn from."""
    gain: float
    """Of `MORE` others."""
    low: float
    high: float
    taken_for: str
    """The class that most of its mistakes go to; empty without any."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LearningCurve:
    """What the runs on fewer photos say about more of them."""

    photos: tuple[float, ...]
    """(A,), photos a class that an arm learnt from, in the mean."""
    top1: tuple[float, ...]
    """(A,), measured."""
    fitted: tuple[float, ...]
    """(A,), by the curve."""
    predicted: float | None
    """Of the last arm, by a curve through the others; None with fewer than three arms."""
    doubled: tuple[float, float, float]
    """What twice the photos of every class would gain, and its 95 % interval."""
    best: tuple[float, float, float]
    """What `MORE` photos of each of the first classes of `classes` would gain together."""
    classes: tuple[Worth, ...]
    """All of them, the most worthwhile first."""

    def to_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return asdict(self)

    def sentences(self) -> list[str]:
        """Return what follows, a sentence each."""
        names = ", ".join(each.label for each in self.classes[:_NAMED])
        found = [
            f"Another {MORE} photos of each of these classes would pay most: {names}. Together they"
            f" would bring about {_points(self.best)} of accuracy.",
            f"Twice the photos of every class would bring about {_points(self.doubled)}.",
        ]
        if self.predicted is not None:
            found.append(
                f"As a check: a curve without the last arm predicts {self.predicted:.1%} for it,"
                f" and it has {self.top1[-1]:.1%}."
            )
        return found


def learning_curve(runs: Sequence[Sequence[Path]], learnt: Ints) -> LearningCurve:
    """Fit the curve through finished runs.

    Args:
        runs: Run directories by arm, a run for each seed; the last arm learnt from all photos.
        learnt: (A, K), photos of each class that an arm learnt from.

    Raises:
        RunError: A run stored no predictions, or they are of other photos.
    """
    record, found = _opened(runs[-1][0])
    right = np.array([[_right(run, found) for run in arm] for arm in runs]).mean(1)
    return curve_through(right, learnt, found, record.labels)


def curve_through(
    right: Floats, learnt: Ints, found: Predictions, labels: Sequence[str]
) -> LearningCurve:
    """Fit the curve through what each arm got right.

    Args:
        right: (A, N), whether each arm got a photo right, or in how many of its seeds, as a share.
        learnt: (A, K), photos of each class that an arm learnt from.
        found: What the last arm answered, in the same order.
        labels: (K,), the names of the classes.
    """
    targets = found.targets
    # The first is of the photos as they are, the others of photos drawn anew.
    draws = [_of(right, times, targets, learnt) for times in _drawn(targets, found.clusters)]
    now = learnt[-1]
    more = np.array([_worth(fit, shares, now) for fit, shares in draws])
    twice = np.array(
        [_top1(fit, shares, 2 * now) - _top1(fit, shares, now) for fit, shares in draws]
    )
    order = np.argsort(-more[0], kind="stable")
    fit, shares = draws[0]
    predicted = None
    if len(right) > 2:
        before, _ = _of(right[:-1], np.ones(len(targets)), targets, learnt[:-1])
        predicted = _top1(before, shares, now)
    spans = np.quantile(more[1:], [0.025, 0.975], axis=0)
    return LearningCurve(
        photos=tuple(learnt.mean(1).tolist()),
        top1=tuple(right.mean(1).tolist()),
        fitted=tuple(_top1(fit, shares, row) for row in learnt),
        predicted=predicted,
        doubled=_with_interval(twice),
        best=_with_interval(more[:, order[:_NAMED]].sum(1)),
        classes=tuple(
            Worth(
                label=labels[k], photos=int(learnt[-1, k]), gain=float(more[0, k]),
                low=float(spans[0, k]), high=float(spans[1, k]),
                taken_for=_taken_for(found, labels, k),
            )
            for k in order.tolist()
        ),
    )  # fmt: skip


def _opened(run: Path) -> tuple[RunRecord, Predictions]:
    record = RunRecord.open(run)
    if record.val is None:
        raise RunError(f"{run} stored no predictions; train it again under another name")
    return record, record.val


def _right(run: Path, like: Predictions) -> NDArray[np.bool_]:
    """Return which photos a run gets right, in the order of `like`."""
    found = _opened(run)[1]
    right = dict(zip(found.files, found.right.tolist(), strict=True))
    if right.keys() != set(like.files):
        raise RunError("the runs answered other photos; compare runs of one dataset")
    return np.array([right[file] for file in like.files])


def _drawn(targets: Ints, clusters: Clusters | None) -> list[Floats]:
    """Return how often each photo counts, (N,): once in the first, then drawn anew."""
    random = np.random.default_rng(0)
    index = np.arange(len(targets)) if clusters is None else clusters.index
    count = len(targets) if clusters is None else clusters.count
    draws = (random.multinomial(count, np.full(count, 1 / count)) for _ in range(_DRAWS))
    return [np.ones(len(targets)), *(draw[index].astype(np.float64) for draw in draws)]


def _of(right: Floats, times: Floats, targets: Ints, learnt: Ints) -> tuple[Fit, Floats]:
    """Return the fit, and the share of each class (K,), of photos that count so many times."""
    num_classes = learnt.shape[1]
    photos: Floats = np.bincount(targets, times, num_classes).astype(np.float64)
    hits = np.array([np.bincount(targets, row * times, num_classes) for row in right])
    return _fit(hits, photos, learnt), photos / photos.sum()


def _fit(right: Floats, photos: Floats, learnt: Ints) -> Fit:
    """Return the levels and the slopes, by Newton's method.

    `right` (A, K) of `photos` (K,) are right in each arm. Levels are a mean and a difference each.
    """
    own, all_ = _logs(learnt)
    terms = np.stack([np.ones_like(own), own, all_])
    shared, differences = np.zeros(3), np.zeros(len(photos))
    for _ in range(30):
        recall = 1 / (1 + np.exp(-(np.tensordot(shared, terms, 1) + differences)))
        missing, weight = right - photos * recall, photos * recall * (1 - recall)
        by_class = missing.sum(0) - _PRIOR * differences
        both = (terms * missing).sum((1, 2)) - _SHARED_PRIOR * shared
        # The differences meet each other in the shared terms alone, so they are eliminated first.
        diagonal, cross = weight.sum(0) + _PRIOR, (terms * weight).sum(1)
        system = np.einsum("iak,ak,jak->ij", terms, weight, terms) + np.diag(_SHARED_PRIOR)
        step = np.linalg.solve(
            system - (cross / diagonal) @ cross.T, both - cross @ (by_class / diagonal)
        )
        change = (by_class - step @ cross) / diagonal
        shared, differences = shared + step, differences + change
        if max(np.abs(step).max(), np.abs(change).max(initial=0)) < 1e-6:
            break
    return shared[0] + differences, shared[1:]


def _logs(learnt: Ints) -> tuple[Floats, Floats]:
    """Return the logarithms of the photos of each class, and of their mean, both (…, K)."""
    own = np.log(np.maximum(learnt, 1))
    mean = np.log(np.maximum(learnt.mean(-1, keepdims=True), 1))
    return own, np.broadcast_to(mean, own.shape)


def _recall(fit: Fit, learnt: Ints) -> Floats:
    levels, slopes = fit
    recall: Floats = 1 / (1 + np.exp(-(levels + np.tensordot(slopes, _logs(learnt), 1))))
    return recall


def _top1(fit: Fit, shares: Floats, learnt: Ints) -> float:
    return float((shares * _recall(fit, learnt)).sum())


def _worth(fit: Fit, shares: Floats, now: Ints) -> Floats:
    """Return what `MORE` photos of each class alone bring, in accuracy over all photos, (K,)."""
    levels, (own, all_) = fit
    recall = _recall(fit, now)
    # Few photos move the mean by little, and all other classes alike: the slope is enough.
    moved = np.log1p(MORE / max(int(now.sum()), 1))
    others = all_ * moved * (shares * recall * (1 - recall)).sum()
    mean = _logs(now)[1]
    alone = 1 / (1 + np.exp(-(levels + own * _logs(now + MORE)[0] + all_ * mean)))
    worth: Floats = shares * (alone - recall) + others
    return worth


def _with_interval(values: Floats) -> tuple[float, float, float]:
    """Return the first value, and the 95 % interval that the others make."""
    low, high = np.quantile(values[1:], [0.025, 0.975]).tolist()
    return float(values[0]), low, high


def _taken_for(found: Predictions, labels: Sequence[str], k: int) -> str:
    predicted = found.predicted[found.targets == k]
    wrong = predicted[predicted != k]
    return labels[int(np.bincount(wrong).argmax())] if len(wrong) else ""


def _points(found: tuple[float, float, float]) -> str:
    value, low, high = (100 * each for each in found)
    return f"{value:+.1f} points (95 %: {low:+.1f} to {high:+.1f})"
