"""Photos that are suspicious whatever their label: copies, outliers, and those that show little.

pixels of the cache ─► dark, blurred, low_information      files ─► near_copy, odd_aspect
features ─► outlier, never_learned

Scores end at `MOST`: a photo that is only dull comes after one whose label is likely wrong.

Shapes: N photos, C side of the cached square, k neighbours.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from training.data.cache import Split
from training.datasheet.findings import Sheet
from training.datasheet.looks import EXTREME_ASPECT

if TYPE_CHECKING:
    # It brings torch along, which captured photos do without.
    from training.review.out_of_fold import Answers

Kind = Literal[
    "label", "never_learned", "outlier", "near_copy", "dark", "blurred", "low_information",
    "odd_aspect",
    "unsure", "random", "mistake",
]  # fmt: skip
"""The last three say why the service kept a photo (`captured.py`)."""
MOST = 0.5
_BLOCK = 256
_DARK = 0.15
"""The 99th percentile of brightness, 0 to 1, below which hardly anything is to be seen."""
_FLAT_BITS = 3.5
"""Entropy of 256 levels of grey, in bits; photos of food have 6 to 8."""
_FAR = 4.0
"""Robust deviations below the median sharpness, on a logarithmic scale."""
_OUTLIERS = 0.01
"""Share of the photos that is listed as lying furthest from all others."""


@dataclass(frozen=True, slots=True)
class Suspicion:
    """Why one photo is worth a look."""

    row: int
    kind: Kind
    score: float
    note: str


def outliers(similarity: NDArray[np.float32]) -> list[Suspicion]:
    """Return the photos with the least alike neighbours, by cosines (N, k)."""
    distance = 1 - similarity.mean(1)
    count = max(round(_OUTLIERS * len(distance)), 1)
    furthest = np.argsort(-distance, kind="stable")[:count]
    typical = float(np.median(distance))
    found = []
    for rank, row in enumerate(furthest.tolist()):
        if distance[row] <= 2 * typical:
            break
        times = distance[row] / max(typical, 1e-6)
        note = f"{times:.1f} times as far from its nearest photos as others are"
        found.append(Suspicion(row, "outlier", MOST * (1 - rank / count), note))
    return found


def never_learned(answers: "Answers", targets: NDArray[np.int64]) -> list[Suspicion]:
    """Return photos that no model answers with their label, not even those that learned from them.

    Such a photo is hard, or not of its class; a wrong label that looks like its class is not found.
    """
    missed = answers.probabilities.argmax(1) != targets
    learned = np.zeros(len(targets), np.int64)
    for fold, features in enumerate(answers.features):
        rows = np.flatnonzero(missed & (answers.fold_of != fold))
        logits = features[rows] @ answers.heads[fold].T + answers.biases[fold]
        missed[rows[logits.argmax(1) == targets[rows]]] = False
        learned[rows] += 1
    found = []
    for row in np.flatnonzero(missed & (learned > 0)).tolist():
        score = MOST * (1 - float(answers.probabilities[row, targets[row]]))
        note = f"the {learned[row]} models that learned from it do not answer its label either"
        found.append(Suspicion(row, "never_learned", score, note))
    return found


def dull(photos: Split) -> list[Suspicion]:
    """Return photos that are dark, blurred, or show next to nothing, by their cached pixels."""
    measured = np.concatenate(list(_measured(photos)))
    bright, bits, sharp = measured.T
    middle = np.median(sharp)
    spread = 1.4826 * float(np.median(np.abs(sharp - middle))) + 1e-6
    blur = (middle - sharp) / spread
    found = []
    for row in np.flatnonzero(bright < _DARK).tolist():
        score = MOST * (1 - float(bright[row]) / _DARK)
        found.append(Suspicion(row, "dark", score, f"its brightest parts reach {bright[row]:.0%}"))
    for row in np.flatnonzero((bits < _FLAT_BITS) & (bright >= _DARK)).tolist():
        score = MOST * (1 - float(bits[row]) / _FLAT_BITS)
        note = f"{bits[row]:.1f} bits a pixel, where photos have 6 to 8"
        found.append(Suspicion(row, "low_information", score, note))
    flat = (bits < _FLAT_BITS) | (bright < _DARK)
    for row in np.flatnonzero((blur > _FAR) & ~flat).tolist():
        score = MOST * (1 - _FAR / float(blur[row]))
        found.append(Suspicion(row, "blurred", score, "its edges are far softer than the others'"))
    return found


def by_file(sheet: Sheet, files: Sequence[str]) -> list[Suspicion]:
    """Return what a look at every file found: copies, one entry a cluster, and odd aspects."""
    row_of = {file: row for row, file in enumerate(files)}
    found = []
    for copies in sheet.copies:
        rows = [row_of[name] for name in map(sheet.folder.name, copies.photos) if name in row_of]
        if len(rows) < 2:
            continue
        labels = sorted({sheet.folder.labels[photo.target] for photo in copies.photos})
        note = f"one of {len(rows)} photos of one picture"
        if copies.across_labels:
            note += f", under the labels {' and '.join(labels)}"
        elif copies.across_splits:
            note += ", in several splits"
        # Copies under one label and in one split are only waste.
        worst = MOST if copies.across_labels or copies.across_splits else MOST / 2
        found.append(Suspicion(rows[0], "near_copy", worst * (1 - 1 / len(rows)), note))
    for photo, look in zip(sheet.folder.photos, sheet.looks, strict=True):
        row = row_of.get(sheet.folder.name(photo))
        if look is None or row is None:
            continue
        short, long = sorted((look.width, look.height))
        if long > EXTREME_ASPECT * short:
            note = f"{look.width} x {look.height} pixels, of which a model sees the centre"
            score = MOST * (1 - EXTREME_ASPECT * short / long)
            found.append(Suspicion(row, "odd_aspect", score, note))
    return found


def _measured(photos: Split) -> Iterator[NDArray[np.float64]]:
    """Yield brightness (0 to 1), entropy (bits) and log sharpness of each photo, (block, 3)."""
    for start in range(0, len(photos.files), _BLOCK):
        images = photos.images[start : start + _BLOCK].astype(np.float32)
        grey = images @ np.array([0.299, 0.587, 0.114], np.float32)
        edges = (
            grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
            - 4 * grey[:, 1:-1, 1:-1]
        )  # fmt: skip
        counts = np.stack([np.bincount(one.ravel().astype(np.uint8), minlength=256)
                           for one in grey])  # fmt: skip
        shares = counts / counts.sum(1, keepdims=True)
        bits = -(shares * np.log2(np.maximum(shares, 1e-12))).sum(1)
        bright = np.percentile(grey, 99, axis=(1, 2)) / 255
        yield np.stack([bright, bits, np.log(edges.var((1, 2)) + 1e-3)], 1)
