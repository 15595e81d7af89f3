"""The mistakes of a run that it was surest of, with their photos where these can be found.

record ─► surest mistakes ─► photos of the dataset cache, or of a folder ─► why (of the cache)
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.pixels.preprocessing import ImageError, load_square
from training.data.cache import DatasetCache
from training.errors import DataError
from training.pages import page
from training.reports.why import Why, explain, spotlight
from training.runs.run_record import RunRecord

_MOST = 24
_PHOTO_PX = 200
_ALIKE_PX = 96

FindPhoto = Callable[[str], NDArray[np.uint8] | None]
"""Returns the pixels of a validation photo by its file, or None."""


def mistakes(
    record: RunRecord, photos_root: Path | None
) -> tuple[list[dict[str, Any]], str | None]:
    """Return the mistakes, and a sentence why something is missing: mistakes, or their photos.

    Photos come from the dataset cache that the run names, or else from `photos_root`.
    """
    if record.val is None:
        return [], "This run stored no predictions; runs trained from now on do."
    predicted, targets = record.val.predicted, record.val.targets
    probabilities, files = record.val.probabilities, record.val.files
    wrong = np.flatnonzero(predicted != targets)
    if not len(wrong):
        return [], "There are none: every validation photo was recognised."
    confidence = probabilities[wrong, predicted[wrong]]
    surest = wrong[np.argsort(-confidence, kind="stable")[:_MOST]].tolist()
    cache = _cache(record)
    find, why_none = _photos(record, cache, photos_root)
    reasons: list[Why | None] = [None] * len(surest)
    if cache is not None:
        named = [files[row] for row in surest]
        reasons = list(explain(record, cache, named, predicted[surest], targets[surest])) or reasons
    rows = []
    for row, why in zip(surest, reasons, strict=True):
        photo = find(files[row])
        lit = None if why is None or photo is None else spotlight(photo, why.heat)
        rows.append(
            {
                "file": files[row],
                "is": record.labels[targets[row]],
                "taken_for": record.labels[predicted[row]],
                "probability": float(probabilities[row, predicted[row]]),
                "true_probability": float(probabilities[row, targets[row]]),
                "photo": None if photo is None else page.picture(photo, _PHOTO_PX),
                "lit": None if lit is None else page.picture(lit, _PHOTO_PX),
                "alike": []
                if why is None
                else [(label, page.picture(pixels, _ALIKE_PX)) for label, pixels in why.alike],
            }
        )
    return rows, why_none


def _cache(record: RunRecord) -> DatasetCache | None:
    """Return the photos that a run learned from, where they are still there."""
    try:
        cache = DatasetCache.open(record.cache)
    except (DataError, OSError):
        return None
    return cache if {"train", "val"} <= cache.splits.keys() else None


def _photos(
    record: RunRecord, cache: DatasetCache | None, root: Path | None
) -> tuple[FindPhoto, str | None]:
    """Return what finds validation photos, and a sentence if it finds none at all."""
    if cache is not None:
        split = cache.splits["val"]
        rows = {file: row for row, file in enumerate(split.files)}

        def cached(file: str) -> NDArray[np.uint8] | None:
            return np.asarray(split.images[rows[file]]) if file in rows else None

        return cached, None
    if root is None:
        return lambda _: None, (
            f"The photos cannot be shown: the dataset cache {record.cache} is gone. Prepare it"
            " again, or name their folder: hansang report RUN --photos DATA."
        )

    def read(file: str) -> NDArray[np.uint8] | None:
        try:
            return load_square((root / file).read_bytes(), _PHOTO_PX)
        except (ImageError, OSError):
            return None

    return read, None
