"""Folds: every photo of a folder, whatever its split, is held out in exactly one of K folds.

cache (all splits) ─► `everything` ─► `deal` ─► `without` ─► a cache a fold: train and val

No pixels are copied: a fold's photos are rows of the arrays that the dataset cache maps.

Shapes: N photos, K folds, C side of the cached square.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from training.data.cache import DatasetCache, Split
from training.errors import DataError


class Rows:
    """Chosen rows of several arrays, read like one array when they are asked for."""

    def __init__(self, arrays: Sequence[NDArray[Any]], places: NDArray[np.int64]) -> None:
        """Choose rows by `places` (N, 2): the number of the array, and the row in it."""
        self._arrays = arrays
        self._places = places
        self.dtype = arrays[0].dtype
        self.shape = (len(places), *arrays[0].shape[1:])
        self.nbytes = int(np.prod(self.shape)) * self.dtype.itemsize

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        """Return a copy of one row, or of those of a slice or an array."""
        places = self._places[rows]
        if places.ndim == 1:
            return np.array(self._arrays[places[0]][places[1]])
        found = np.empty((len(places), *self.shape[1:]), self.dtype)
        for number, array in enumerate(self._arrays):
            of_array = places[:, 0] == number
            found[of_array] = array[places[of_array, 1]]
        return found

    def chosen(self, rows: NDArray[np.int64]) -> "Rows":
        """Return some of the rows, still unread."""
        return Rows(self._arrays, self._places[rows])


def everything(cache: DatasetCache) -> tuple[Split, tuple[str, ...]]:
    """Return the photos of all splits as one, and the split of each, (N,)."""
    splits = list(cache.splits.values())
    places = [
        np.stack([np.full(len(split.files), number), np.arange(len(split.files))], 1)
        for number, split in enumerate(splits)
    ]
    images = Rows([split.images for split in splits], np.concatenate(places).astype(np.int64))
    one = Split(
        cast("NDArray[np.uint8]", images),
        np.concatenate([split.targets for split in splits]),
        tuple(file for split in splits for file in split.files),
        tuple(digest for split in splits for digest in split.hashes),
        tuple(group for split in splits for group in split.groups),
    )
    return one, tuple(name for name, split in cache.splits.items() for _ in split.files)


def deal(photos: Split, folds: int, *, seed: int = 0) -> NDArray[np.int64]:
    """Return the fold of each photo, (N,); photos of one group, or of one content, share a fold.

    Within a class, units are dealt in the order of a keyed hash, so each fold has its share of
    every class, and the order of the photos decides nothing.

    Raises:
        DataError: There are fewer groups or contents than folds.
    """
    units = units_of(photos)
    of_class: dict[int, set[str]] = defaultdict(set)
    for unit, target in zip(units, photos.targets.tolist(), strict=True):
        of_class[target].add(unit)
    fold_of: dict[str, int] = {}
    for target in sorted(of_class):
        for unit in sorted(of_class[target], key=lambda unit: _place(unit, seed)):
            # Counted over the classes, so that rare classes do not all begin with the first fold.
            fold_of.setdefault(unit, len(fold_of) % folds)
    if len(fold_of) < folds:
        raise DataError(
            f"{len(fold_of)} photos or groups cannot be dealt to {folds} folds; give fewer --folds"
        )
    return np.array([fold_of[unit] for unit in units], np.int64)


def units_of(photos: Split) -> list[str]:
    """Return what no fold parts: the group of a photo, or its content where it has none."""
    contents = photos.hashes or photos.files
    groups = photos.groups or ("",) * len(photos.files)
    return [
        f"group {group}" if group else f"content {content}"
        for group, content in zip(groups, contents, strict=True)
    ]


def without(
    cache: DatasetCache, photos: Split, fold_of: NDArray[np.int64], fold: int
) -> DatasetCache:
    """Return the cache of a run that learns from all folds but one, and validates on that one.

    Its hash covers which photo is in which fold, so a run goes on with these very folds alone.
    """
    told = [cache.dataset_hash, fold, sorted(zip(photos.files, fold_of.tolist(), strict=True))]
    digest = hashlib.sha256(json.dumps(told, ensure_ascii=False).encode(errors="surrogateescape"))
    return replace(
        cache,
        dataset_hash=digest.hexdigest(),
        splits={
            "train": _part(photos, np.flatnonzero(fold_of != fold)),
            "val": _part(photos, np.flatnonzero(fold_of == fold)),
        },
    )


def _part(photos: Split, rows: NDArray[np.int64]) -> Split:
    images = cast("Rows", photos.images).chosen(rows)
    return Split(
        cast("NDArray[np.uint8]", images),
        photos.targets[rows],
        tuple(photos.files[row] for row in rows),
        tuple(photos.hashes[row] for row in rows) if photos.hashes else (),
        tuple(photos.groups[row] for row in rows) if photos.groups else (),
    )


def _place(unit: str, seed: int) -> bytes:
    key = f"hansang fold {seed}".encode()
    return hashlib.blake2b(unit.encode(errors="surrogateescape"), key=key, digest_size=8).digest()
