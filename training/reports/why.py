"""Why a run was wrong: where it saw the class that it answered, and what it learned from alike.

Shapes: N mistakes, M cells of a class map, D features.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data.cache import DatasetCache
from training.runs.run_record import RunRecord

_COMPARED = 512
"""Training photos that are looked at, of the classes in question: a quarter of a minute at 224 px
on one core, seconds at 64 px."""
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Why:
    """What speaks for a wrong answer."""

    heat: NDArray[np.float32]
    """[M, M], 0 to 1: where the class was seen that was answered."""
    alike: list[tuple[str, NDArray[np.uint8]]]
    """Labels and pixels of photos that the run learned from, the nearest compared first."""


def explain(
    record: RunRecord, cache: DatasetCache, files: list[str], answered: NDArray[np.int64],
    labelled: NDArray[np.int64],
) -> list[Why]:  # fmt: skip
    """Return why each validation photo was answered so; nothing where the weights are gone.

    Args:
        record: The run.
        cache: The photos that it learned from.
        files: [N], of validation photos.
        answered: (N,), the classes.
        labelled: (N,), likewise.
    """
    from training.errors import RunError
    from training.model.class_maps import best_model, class_maps, pooled

    row_of = {file: row for row, file in enumerate(cache.splits["val"].files)}
    if not files or not row_of.keys() >= set(files):
        return []
    try:
        model: Any = best_model(record.path)
    except RunError:
        return []
    rows = np.array([row_of[file] for file in files])
    images, side = cache.splits["val"].images, cache.image_size
    weights = model.fc.weight.detach().numpy()
    heats = class_maps(model, images, rows, weights[answered], side)
    train = cache.splits["train"]
    learned = _compared(train.targets, {*answered.tolist(), *labelled.tolist()})
    seen, known = pooled(model, images, rows, side), pooled(model, train.images, learned, side)
    near = np.argsort(-_unit(seen) @ _unit(known).T, axis=1, kind="stable")[:, :_SHOWN]
    return [
        Why(heat, [(record.labels[train.targets[row]], np.asarray(train.images[row]))
                   for row in learned[places].tolist()])
        for heat, places in zip(heats, near, strict=True)
    ]  # fmt: skip


def spotlight(photo: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return a photo (H, W, 3) dimmed where a class was not seen."""
    from PIL import Image

    height, width = photo.shape[:2]
    light = Image.fromarray(heat).resize((width, height), Image.Resampling.BICUBIC)
    share = np.clip(np.asarray(light), 0, 1)[..., None]
    lit: NDArray[np.uint8] = (photo * (0.2 + 0.8 * share)).astype(np.uint8)
    return lit


def _compared(targets: NDArray[np.int64], classes: set[int]) -> NDArray[np.int64]:
    """Return rows of the classes, from each the same number, spread over its photos."""
    most = max(_COMPARED // len(classes), 1)
    chosen = []
    for target in sorted(classes):
        rows = np.flatnonzero(targets == target)
        chosen.append(rows[:: -(-len(rows) // most) or 1])
    return np.concatenate(chosen)


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: NDArray[np.float32] = (rows / np.maximum(lengths, 1e-9)).astype(np.float32)
    return unit
