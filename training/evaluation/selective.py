"""Accuracy against coverage: what a model gets right if it answers only where it is sure enough.

Selective classification by the probability of the likeliest class (El-Yaniv and Wiener 2010;
Geifman and El-Yaniv 2017). Coverage is the share of photos that are answered.

Shapes: N photos.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from training.evaluation.clusters import Clusters
from training.evaluation.intervals import accuracy_interval

_STEPS = 100
"""Thresholds that are looked at: a hundredth is as fine as anybody sets one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """What is answered at a threshold, and how well."""

    threshold: float
    """Answers that are less probable are left out; 0: none is."""
    photos: int
    coverage: float
    """Share of all photos."""
    accuracy: float
    """Of the photos that are answered."""
    interval: tuple[float, float]
    """Of this accuracy, 95 %; over groups where photos share some."""


def curve(
    confidence: ArrayLike, right: NDArray[np.bool_], clusters: Clusters | None = None
) -> tuple[Answered, ...]:
    """Return what is answered at each threshold from 0 on that answers other photos, in hundredths.

    Args:
        confidence: (N,), probability of the likeliest class.
        right: (N,), whether that is the right one.
        clusters: Groups that photos share.
    """
    found: list[Answered] = []
    for step in range(_STEPS):
        point = at(step / _STEPS, confidence, right, clusters)
        if point is None:
            break
        if not found or point.photos < found[-1].photos:
            found.append(point)
    return tuple(found)


def at(
    threshold: float,
    confidence: ArrayLike,
    right: NDArray[np.bool_],
    clusters: Clusters | None = None,
) -> Answered | None:
    """Return what is answered at a threshold; None if nothing is."""
    answered = np.asarray(confidence) >= threshold
    photos = int(answered.sum())
    if not photos:
        return None
    shared = clusters.subset(answered) if clusters is not None else None
    return Answered(
        threshold=threshold,
        photos=photos,
        coverage=photos / len(right),
        accuracy=float(right[answered].mean()),
        interval=accuracy_interval(right[answered], shared),
    )


def halving(points: Sequence[Answered]) -> Answered | None:
    """Return the lowest threshold that halves the share of wrong answers; None if none does."""
    wrong = 1 - points[0].accuracy
    if not wrong:
        return None
    return next((point for point in points[1:] if 1 - point.accuracy <= wrong / 2), None)
