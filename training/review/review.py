"""A review: everything in a folder of photos that is worth a look, the most suspicious first.

answers ─► label suspicions, outliers ─┐
cached pixels ─► dull photos           ├─► Review ─► review.json, review.html
files ─► copies, odd aspects ──────────┤
features ─► classes in two halves ─────┘

Shapes: N photos, K classes.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data.cache import DatasetCache, Split
from training.datasheet.findings import Sheet
from training.review import photos as whatever_label
from training.review.halves import Halved, halved
from training.review.heat import MOST, heats
from training.review.labels import doubtful, pairs, suspicion
from training.review.nearest import Nearest, nearest, positions
from training.review.out_of_fold import Answers
from training.review.photos import Suspicion
from training.review.suspect import SHOWN, Suspect

_NEIGHBOURS = 50
"""That vote on a label; fewer vote worse (docs/notes/experiments.md)."""
_DIGITS = 6
"""Of a score."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Review:
    """What was found in a folder of photos."""

    data: Path
    classes: tuple[str, ...]
    suspects: list[Suspect]
    """The most suspicious first. Every photo is in it once as `label`, unless its score is 0."""
    pairs: list[dict[str, Any]]
    """`label`, `suggested`, `count`: photos of one label that are confidently of another class."""
    halved: list[Halved]
    """Classes that fall into two halves, the most surely first."""
    num_photos: int
    accuracy: float
    """How often the held-out answer is the label."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as `review.json` holds them."""
        return {**asdict(self), "data": str(self.data)}


def review(
    data: Path, cache: DatasetCache, photos: Split, splits: Sequence[str], answers: Answers,
    sheet: Sheet,
) -> Review:  # fmt: skip
    """Judge every photo of a folder by answers of models that did not learn from it.

    Args:
        data: The folder or table, as it was given.
        cache: Its dataset cache.
        photos: All of its photos (see `folds.everything`).
        splits: (N,), the split of each.
        answers: Of models that did not learn from the photo.
        sheet: What a look at every file found.
    """
    alike = _alike(answers)
    judged = suspicion(answers.probabilities, photos.targets, alike)
    taken_for = doubtful(judged.probabilities, photos.targets)
    found = _labels(judged.scores)
    found += whatever_label.outliers(alike.similarity[:, :SHOWN])
    found += whatever_label.never_learned(answers, photos.targets)
    found += whatever_label.dull(photos)
    found += whatever_label.by_file(sheet, photos.files)
    places = positions(answers.features[0])
    found.sort(key=lambda one: (-one.score, photos.files[one.row]))
    likeliest = np.argsort(-judged.probabilities, 1, kind="stable")[:, :SHOWN]
    first = np.array(list(dict.fromkeys(one.row for one in found))[:MOST], np.int64)
    heat = heats(photos, cache.image_size, answers, first, likeliest[first, 0])
    classes, groups = cache.labels, photos.groups or ("",) * len(photos.files)

    def suspect(one: Suspicion) -> Suspect:
        row = one.row
        return Suspect(
            photo=photos.files[row],
            label=classes[photos.targets[row]],
            suggested=classes[likeliest[row, 0]],
            score=round(one.score, _DIGITS),
            kind=one.kind,
            split=splits[row],
            likeliest=[
                (classes[k], round(float(judged.probabilities[row, k]), 4)) for k in likeliest[row]
            ],
            neighbours=[photos.files[other] for other in alike.rows[row, :SHOWN]],
            xy=(round(float(places[row, 0]), 4), round(float(places[row, 1]), 4)),
            group=groups[row] or None,
            doubtful=one.kind == "label" and bool(taken_for[row] >= 0),
            heat=heat.get(row, ""),
            note=one.note,
        )

    return Review(
        data=data,
        classes=classes,
        suspects=[suspect(one) for one in found],
        pairs=pairs(taken_for, photos.targets, classes),
        halved=halved(answers, photos.targets, photos.files, classes),
        num_photos=len(photos.files),
        accuracy=float((answers.probabilities.argmax(1) == photos.targets).mean()),
    )


def _labels(scores_N: NDArray[np.float64]) -> list[Suspicion]:
    # As they are written down: what is 0 then is no suspicion.
    scores = scores_N.round(_DIGITS)
    return [
        Suspicion(row, "label", float(scores[row]), "")
        for row in np.flatnonzero(scores > 0).tolist()
    ]


def _alike(answers: Answers) -> Nearest:
    """Return the nearest photos of each, in the features of the model that did not learn it."""
    count = len(answers.fold_of)
    k = min(_NEIGHBOURS, count - 1)
    rows, similarity = np.empty((count, k), np.int64), np.empty((count, k), np.float32)
    for fold, features in enumerate(answers.features):
        asked = np.flatnonzero(answers.fold_of == fold)
        found = nearest(features, asked, k)
        rows[asked], similarity[asked] = found.rows, found.similarity
    return Nearest(rows, similarity)
