"""The mistakes of a run that it was surest of, with their photos where these can be found."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.pixels.preprocessing import ImageError, load_square
from training.data.cache import DatasetCache
from training.errors import DataError
from training.pages import page
from training.runs.run_record import RunRecord

_MOST = 24
_PHOTO_PX = 200

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
    find, why_none = _photos(record, photos_root)
    rows = []
    for row in surest:
        photo = find(files[row])
        rows.append(
            {
                "file": files[row],
                "is": record.labels[targets[row]],
                "taken_for": record.labels[predicted[row]],
                "probability": float(probabilities[row, predicted[row]]),
                "true_probability": float(probabilities[row, targets[row]]),
                "photo": None if photo is None else page.picture(photo, _PHOTO_PX),
            }
        )
    return rows, why_none


def _photos(record: RunRecord, root: Path | None) -> tuple[FindPhoto, str | None]:
    """Return what finds validation photos, and a sentence if it finds none at all."""
    try:
        split = DatasetCache.open(record.cache).splits["val"]
    except (DataError, KeyError, OSError):
        split = None
    if split is not None:
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
