"""How likely each label is wrong: out-of-fold probabilities and the labels of look-alikes.

probabilities (N, K) ─┐
                      ├─► mixed ─► suspicion (N,) ─► pairs of classes
neighbours' labels ───┘

The score compares the likeliest other class with the label: its share of the two, in the mix. One
minus the label's own probability, which confident learning calls self-confidence (Northcutt et al.
2021, arXiv 1911.00068), ranks random flips equally well and flips between look-alikes worse. The
margin between the two ranks look-alikes better and random flips worse (docs/notes/experiments.md).

Shapes: N photos, K classes, k neighbours.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.review.nearest import Nearest

_WARMTH = 0.02
"""Of the neighbours' votes: a cosine lower by this counts e times less."""
_VOTES = 0.5
"""Share of the neighbours in the mix; the rest is the model's own answer."""


@dataclass(frozen=True, slots=True)
class Judged:
    """Every photo's label, judged."""

    probabilities: NDArray[np.float64]
    """[N, K], of the model and the neighbours together."""
    scores: NDArray[np.float64]
    """[N], 0 (surely right) to 1 (surely wrong); above 0.5 another class is likelier."""


def suspicion(
    probabilities: NDArray[np.float32], targets: NDArray[np.int64], alike: Nearest
) -> Judged:
    """Return how likely each label (N,) is wrong.

    Args:
        probabilities: (N, K), of models that did not learn from the photo.
        targets: (N,), the labels that are judged.
        alike: (N, k), the nearest photos in the features of such models.
    """
    mixed = (1 - _VOTES) * probabilities + _VOTES * _votes(probabilities.shape, targets, alike)
    rows = np.arange(len(targets))
    own, others = mixed[rows, targets], mixed.copy()
    others[rows, targets] = 0
    other = others.max(1)
    return Judged(mixed, other / (other + own))


def doubtful(probabilities: NDArray[np.float64], targets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the class that each photo is confidently of instead of its label, (N,); -1 if none.

    A photo is confidently of a class where that is at least as likely as it is, on the average, for
    the photos under that label: the off-diagonal of the confident joint.
    """
    count = probabilities.shape[1]
    own = probabilities[np.arange(len(targets)), targets]
    photos = np.bincount(targets, minlength=count)
    threshold = np.bincount(targets, own, count) / np.maximum(photos, 1)
    confident = np.where(probabilities >= threshold, probabilities, -1)
    confident[:, photos == 0] = -1
    taken_for = confident.argmax(1)
    found: NDArray[np.int64] = np.where(
        (confident.max(1) >= 0) & (taken_for != targets), taken_for, -1
    )
    return found


def pairs(
    taken_for: NDArray[np.int64], targets: NDArray[np.int64], classes: tuple[str, ...]
) -> list[dict[str, object]]:
    """Return how many photos of one label are `doubtful` for another class, the most first."""
    wrong = taken_for >= 0
    joint = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(joint, (targets[wrong], taken_for[wrong]), 1)
    places = np.argwhere(joint)
    order = np.argsort(-joint[tuple(places.T)], kind="stable")
    return [
        {"label": classes[label], "suggested": classes[other], "count": int(joint[label, other])}
        for label, other in places[order].tolist()
    ]


def _votes(
    shape: tuple[int, ...], targets: NDArray[np.int64], alike: Nearest
) -> NDArray[np.float64]:
    """Return the share of each class among the neighbours, (N, K), the more alike the heavier."""
    best = alike.similarity[:, :1]
    weights = np.exp((alike.similarity.astype(np.float64) - best) / _WARMTH)
    weights /= weights.sum(1, keepdims=True)
    votes = np.zeros(shape)
    rows = np.arange(len(targets))[:, None]
    np.add.at(votes, (np.broadcast_to(rows, weights.shape), targets[alike.rows]), weights)
    return votes
