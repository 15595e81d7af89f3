"""Classes that fall into two halves: perhaps two classes under one label.

held-out photo ─► nearest photos of its class that the same model learned ─► graph of the class
graph ─► best cut in two (Shi and Malik 2000) ─► compared with clouds that have no halves ─► Halved

Two-means of one model's features parts the photos that it learned from those that it did not. Here
every edge runs between the two kinds, each kind around its own centre, so no cut can follow them.

Shapes: n photos of a class, M models, D features.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.review.out_of_fold import Answers

_LEAST_PHOTOS = 30
"""Of a class; of fewer, the halves that were found meant nothing (docs/notes/experiments.md)."""
_MOST_PHOTOS = 400
"""Of a class that are looked at, evenly chosen: the cut takes n³ steps."""
_LEAST_SHARE = 0.15
"""Of the smaller half; a handful of odd photos are outliers, not a class."""
_NEIGHBOURS = 10
_CLOUDS = 20
"""Random clouds of the same covariance that a class is compared with."""
_TINY = 1e-6
_DEVIATIONS = 5.0
"""From which on a class is listed (`Halved.score`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Halved:
    """A class that falls into two halves."""

    label: str
    score: float
    """Standard deviations by which the logarithm of its cut is below that of clouds."""
    halves: tuple[list[str], list[str]]
    """Photos, the larger half first, the most typical of each half first; 400 at the most."""


def halved(
    answers: Answers, targets: NDArray[np.int64], files: Sequence[str], classes: Sequence[str]
) -> list[Halved]:
    """Return the classes that fall into two halves, the most surely first."""
    found = []
    for target, label in enumerate(classes):
        rows = np.flatnonzero(targets == target)
        rows = rows[:: -(-len(rows) // _MOST_PHOTOS) or 1]
        if len(rows) < _LEAST_PHOTOS:
            continue
        fold_of, seen = answers.fold_of[rows], _seen(answers, rows)
        graph = _graph(seen, fold_of)
        cut, half = _best_cut(graph)
        # Seeded, so that a review of the same runs says the same.
        rng = np.random.default_rng(target)
        clouds = np.array(
            [_best_cut(_graph(_cloud(seen, rng), fold_of))[0] for _ in range(_CLOUDS)]
        )
        logs = np.log(clouds + _TINY)
        score = float((logs.mean() - np.log(cut + _TINY)) / max(logs.std(), _TINY))
        if score >= _DEVIATIONS:
            halves = [_typical(graph, part) for part in (half, ~half)]
            halves.sort(key=len, reverse=True)
            first, second = ([files[row] for row in rows[part]] for part in halves)
            found.append(Halved(label=label, score=round(score, 2), halves=(first, second)))
    return sorted(found, key=lambda one: -one.score)


def _seen(answers: Answers, rows: NDArray[np.int64]) -> list[NDArray[np.float64]]:
    """Return each model's features of a class, M of (n, D): unit vectors around their centres."""
    fold_of, found = answers.fold_of[rows], []
    for fold, features in enumerate(answers.features):
        part = features[rows].astype(np.float64)
        for kind in (fold_of == fold, fold_of != fold):
            if kind.any():
                part[kind] = _unit(_unit(part[kind]) - _unit(part[kind]).mean(0))
        found.append(part)
    return found


def _cloud(
    seen: Sequence[NDArray[np.float64]], rng: np.random.Generator
) -> list[NDArray[np.float64]]:
    """Return as many photos of a Gaussian cloud that every model sees with the same covariance."""
    count = len(seen[0])
    mixed = rng.standard_normal((count, count))
    return [_unit(mixed @ part) for part in seen]


def _graph(seen: Sequence[NDArray[np.float64]], fold_of: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return how alike two photos are, (n, n), where one is held out and near to one learned."""
    graph = np.zeros((len(fold_of), len(fold_of)))
    for fold, part in enumerate(seen):
        held_out, learned = np.flatnonzero(fold_of == fold), np.flatnonzero(fold_of != fold)
        k = min(_NEIGHBOURS, len(learned))
        if not len(held_out) or not k:
            continue
        cosines = part[held_out] @ part[learned].T
        near = np.argpartition(-cosines, k - 1, axis=1)[:, :k]
        values = np.maximum(np.take_along_axis(cosines, near, 1), 0)
        graph[held_out[:, None], learned[near]] += values
    both: NDArray[np.float64] = graph + graph.T
    return both


def _best_cut(graph: NDArray[np.float64]) -> tuple[float, NDArray[np.bool_]]:
    """Return the least normalized cut along the second eigenvector, and one of its halves, (n,)."""
    count = len(graph)
    degree = graph.sum(1) + _TINY
    vectors = np.linalg.eigh(graph / np.sqrt(degree[:, None] * degree))[1]
    order = np.argsort(vectors[:, -2] / np.sqrt(degree), kind="stable")
    volume = np.cumsum(degree[order])[:-1]
    # What lies within the first photos: twice the part of the matrix below its diagonal.
    within = np.cumsum(2 * np.tril(graph[order][:, order], -1).sum(1))[:-1]
    cuts = (volume - within) * (1 / volume + 1 / (degree.sum() - volume))
    least = max(round(_LEAST_SHARE * count), 1)
    cuts[: least - 1] = cuts[count - least :] = np.inf
    place = int(cuts.argmin())
    half = np.zeros(count, bool)
    half[order[: place + 1]] = True
    return float(cuts[place]), half


def _typical(graph: NDArray[np.float64], half: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the photos of a half, those first that are most alike to others of it."""
    rows = np.flatnonzero(half)
    return rows[np.argsort(-graph[rows][:, rows].sum(1), kind="stable")]


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = rows / np.maximum(
        np.linalg.norm(rows, axis=1, keepdims=True), 1e-9
    )
    return found
