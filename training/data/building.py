"""Photos into a new cache: decoded on every core beside its place, and renamed when it is whole."""

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.pixels.preprocessing import PREPROCESSING, resize_size
from storage import sync
from terminal import Progress
from training.data import decoding
from training.data.cache import CROPS, FORMAT, DatasetCache, crops_side, manifest_of
from training.data.dataset import Photo, PhotoFolder, readable
from training.data.splits import RULE
from training.errors import DataError
from training.files import write_text

_SYNCED_BYTES = 64 * 2**20
"""What is decoded before the disk is made to have it, while more is decoded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What a cache is to hold."""

    folder: PhotoFolder
    image_size: int
    stamp: str
    """Hash of names, sizes and times: equal stamps mean that nothing has changed."""
    digests: Mapping[str, str]
    """Name of a photo → SHA-256 of its content."""
    unread: Mapping[str, str]
    """Name of a photo whose content could not be had → why."""

    @property
    def photos(self) -> list[Photo]:
        """The photos whose content is known, in the folder's order; a new list each time."""
        return [photo for photo in self.folder.photos if self.folder.name(photo) in self.digests]

    @property
    def num_bytes(self) -> int:
        """Size of the arrays."""
        train = sum(photo.split == "train" for photo in self.folder.photos)
        pixels = len(self.folder.photos) * resize_size(self.image_size) ** 2
        return 3 * (pixels + train * crops_side(self.image_size) ** 2)

    def key(self) -> str:
        """Return the hash that names the cache."""
        contents = {
            f"{photo.split}:{name}": self.digests[name]
            for photo in self.photos
            if (name := self.folder.name(photo))
        }
        return hash_of(
            [
                FORMAT,
                PREPROCESSING,
                self.image_size,
                crops_side(self.image_size),
                self.folder.labels,
                sorted(contents.items()),
            ]
        )


def hash_of(value: Any) -> str:
    """Return the SHA-256 of a value as JSON."""
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode()).hexdigest()


def build(
    wanted: Wanted, path: Path, older: Sequence[Path], pool: Executor, progress: Progress
) -> None:
    """Decode the photos into `path`; what stands in an older cache is copied from there.

    Raises:
        DataError: A class has too few readable photos.
        OSError: The disk is full, or cannot be written.
    """
    temporary = path.with_name(f".tmp-{path.name}")
    # What killed builds left: nobody else builds while the lock is held.
    for left in path.parent.glob(".tmp-*"):
        shutil.rmtree(left, ignore_errors=True)
    temporary.mkdir(parents=True)
    folder = wanted.folder
    try:
        before = _decoded_before(older)
        bad, unread = dict(wanted.unread), list(wanted.unread)
        rows: dict[str, tuple[str, int]] = {}
        train = sum(photo.split == "train" for photo in wanted.photos)
        done, total = 0, len(wanted.digests) + train
        for split, members in groupby(wanted.photos, key=lambda photo: photo.split):
            photos = list(members)
            digests = [wanted.digests[folder.name(photo)] for photo in photos]
            array = temporary / f"{split}.npy"
            if _shared(array, older, digests):
                rows |= {folder.name(photo): (split, row) for row, photo in enumerate(photos)}
                done += len(photos)
                progress(done, total)
                continue
            side = resize_size(wanted.image_size)
            whys: dict[int, decoding.Fault | None] = {}
            for row, why in _fill(array, side, photos, digests, before, pool):
                whys[row] = why
                done += 1
                progress(done, total)
            for row, photo in enumerate(photos):
                name, why = folder.name(photo), whys[row]
                if why is None:
                    rows[name] = (split, row)
                else:
                    bad[name] = why.reason
                    unread += [name] if why.may_pass else []
        kept = readable(folder, bad)
        splits = _arrange(temporary, kept, rows)
        for done in _fill_crops(temporary, wanted, splits["train"], older, pool):
            progress(total - train + done, total)
        manifest = _manifest(wanted, kept, splits, bad, unread)
        write_text(temporary / "manifest.json", json.dumps(manifest, ensure_ascii=False))
        remove(path)
        temporary.rename(path)
        sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _shared(array: Path, older: Sequence[Path], digests: Sequence[str]) -> bool:
    """Link a split's file from an older cache that has the same photos in the same order."""
    for path in older:
        with suppress(DataError, OSError):  # where files have one name only, it is copied
            split = DatasetCache.open(path).splits.get(array.stem)
            if split is not None and list(split.hashes) == list(digests):
                os.link(path / array.name, array)
                return True
    return False


def _manifest(
    wanted: Wanted, kept: PhotoFolder, splits: Mapping[str, Sequence[Photo]],
    bad: Mapping[str, str], unread: Sequence[str],
) -> dict[str, Any]:  # fmt: skip
    """Return what the cache says of itself; `kept` is the folder without its bad photos."""
    folder = wanted.folder
    return {
        "format": FORMAT,
        "preprocessing": PREPROCESSING,
        "image_size": wanted.image_size,
        "labels": folder.labels,
        "dataset_hash": hash_of(sorted(
            [photo.split, folder.labels[photo.target], wanted.digests[folder.name(photo)]]
            for photo in kept.photos
        )),
        "stamp": wanted.stamp,
        "root": str(folder.root.resolve()),
        **({} if folder.seed is None else {"drawn": RULE}),
        CROPS: crops_side(wanted.image_size),
        "bad_files": bad,
        "unread": unread,
        "splits": {
            split: {
                "files": [folder.name(photo) for photo in photos],
                "targets": [photo.target for photo in photos],
                "hashes": [wanted.digests[folder.name(photo)] for photo in photos],
                **_groups(photos),
            }
            for split, photos in splits.items()
        },
    }  # fmt: skip


def remove(path: Path) -> None:
    """Remove what is no cache, such as a folder that was copied by half, from a cache's place."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def _groups(photos: Sequence[Photo]) -> dict[str, list[str]]:
    found = [photo.group for photo in photos]
    return {"groups": found} if any(found) else {}


def _fill(
    path: Path, side: int, photos: Sequence[Photo], hashes: Sequence[str],
    before: Mapping[str, NDArray[np.uint8]], pool: Executor,
) -> Iterator[tuple[int, decoding.Fault | None]]:  # fmt: skip
    """Create a split's file of pixels; yield each row that is filled, and why not if it failed."""
    shape = (len(photos), side, side, 3)
    offset = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape).offset
    with path.open("r+b") as file:
        # Reserved now: a disk that fills up later would leave half a cache.
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        new = [
            (row, str(photo.path)) for row, photo in enumerate(photos) if hashes[row] not in before
        ]
        fill = partial(decoding.fill, str(path), offset, side)
        filled = pool.map(fill, new, chunksize=decoding.AT_ONCE)
        for row, digest in enumerate(hashes):
            if digest in before:
                file.seek(offset + row * before[digest].nbytes)
                file.write(before[digest].data)
                yield row, None
        unsynced = 0
        for (row, _), why in zip(new, filled, strict=True):
            yield row, why
            unsynced += side * side * 3
            if unsynced >= _SYNCED_BYTES:
                os.fdatasync(file.fileno())
                unsynced = 0


def _fill_crops(
    temporary: Path, wanted: Wanted, photos: Sequence[Photo], older: Sequence[Path], pool: Executor
) -> Iterator[int]:
    """Fill the squares that crops are cut from; yield how many are filled.

    Raises:
        DataError: A photo that could be read a moment ago no longer can be.
    """
    hashes = [wanted.digests[wanted.folder.name(photo)] for photo in photos]
    before = _decoded_before(older, crops=True)
    array, side = temporary / f"{CROPS}.npy", crops_side(wanted.image_size)
    for done, (row, why) in enumerate(_fill(array, side, photos, hashes, before, pool), 1):
        if why is not None:
            name = wanted.folder.name(photos[row])
            raise DataError(f"{name} changed while it was prepared ({why.reason}); try again")
        yield done
    sync(array)


def _decoded_before(caches: Sequence[Path], *, crops: bool = False) -> dict[str, NDArray[np.uint8]]:
    """Return content hash → pixels (C, C, 3), or (P, P, 3), of every photo in the caches."""
    known: dict[str, NDArray[np.uint8]] = {}
    for path in caches:
        with suppress(DataError):  # a damaged one is no help, and no hindrance
            manifest = manifest_of(path)
            if manifest is None or manifest.get("preprocessing") != PREPROCESSING:
                continue
            for split in DatasetCache.open(path).splits.values():
                images = split.crops if crops else split.images
                known.update(zip(split.hashes, () if images is None else images, strict=False))
    return known


def _arrange(
    temporary: Path, kept: PhotoFolder, rows: Mapping[str, tuple[str, int]]
) -> dict[str, list[Photo]]:
    """Bring the arrays in line with the photos that are kept, one row in memory at a time.

    Args:
        temporary: The folder of the arrays.
        kept: The photos, in their splits and their order.
        rows: Name of a photo → the array and the row that it was decoded into.

    Returns:
        Split → its photos, in the order of its array.
    """
    splits = {
        split: list(photos) for split, photos in groupby(kept.photos, lambda photo: photo.split)
    }
    decoded = {
        path.stem: np.lib.format.open_memmap(path, mode="r") for path in temporary.glob("*.npy")
    }
    filled = Counter(split for split, _ in rows.values())
    for split, photos in splits.items():
        sources = [rows[kept.name(photo)] for photo in photos]
        there = decoded.get(split)
        if there is not None and sources == [(split, row) for row in range(len(there))]:
            continue
        target = np.lib.format.open_memmap(
            temporary / f"{split}.new", mode="w+", dtype=np.uint8,
            shape=(len(photos), *next(iter(decoded.values())).shape[1:]),
        )  # fmt: skip
        for new, (source, row) in enumerate(sources):
            target[new] = decoded[source][row]
        target.flush()
    # Not before all are written: photos may have moved from one to the other.
    for split in {*splits, *filled}:
        if (new_file := temporary / f"{split}.new").exists():
            new_file.replace(temporary / f"{split}.npy")
        elif split not in splits:
            (temporary / f"{split}.npy").unlink()
        if split in splits:
            sync(temporary / f"{split}.npy")
    return splits
