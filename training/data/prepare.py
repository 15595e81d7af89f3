"""Builds the dataset cache: every core decodes, and what was decoded before is not decoded again.

Built in a temporary folder beside its place and renamed when it is whole. A photo whose content
stands in an older cache of the folder is copied from there: a night's new photos cost a night's.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.pixels.preprocessing import PREPROCESSING, resize_size
from storage import sync
from terminal import Progress, no_progress
from training.buckets import mirror
from training.data import decoding
from training.data.cache import FORMAT, DatasetCache, manifest_of
from training.data.dataset import Photo, PhotoFolder, scan
from training.errors import DataError
from training.files import write_text

_SYNCED_BYTES = 64 * 2**20
"""What is decoded before the disk is made to have it, while more is decoded."""


def prepare(
    data: Path,
    image_size: int,
    *,
    cache_root: Path = Path("cache"),
    seed: int = 0,
    progress: Progress = no_progress,
) -> DatasetCache:
    """Return the cache of a folder of photos; build it with every core unless it is up to date.

    Where `cache_root` is `s3://…`, it is fetched from there, or pushed once it is built.

    Raises:
        DataError: The folder cannot be trained on (see `scan`), a class has no readable photo in
            train or val, the disk is too small, or a process that decodes was killed.
    """
    copies = mirror.local_path(cache_root)
    cache = _prepared(
        scan(data, seed=seed), image_size, copies, progress,
        lambda path: mirror.pull(cache_root / path.name),
    )  # fmt: skip
    mirror.push_once(cache_root / cache.path.name)
    return cache


def _prepared(
    folder: PhotoFolder,
    image_size: int,
    cache_root: Path,
    progress: Progress,
    fetch: Callable[[Path], object],
) -> DatasetCache:
    prefix = f"{folder.root.resolve().name}-{image_size}-"
    stamp = _stamp(folder, image_size)
    found = [path for path in sorted(cache_root.glob(f"{prefix}*")) if path.is_dir()]
    for path in found:
        manifest = manifest_of(path)
        if manifest is None or manifest["stamp"] != stamp:
            continue
        if manifest.get("root") == str(folder.root.resolve()):
            return DatasetCache.open(path)
    with decoding.workers(len(folder.photos)) as pool:
        hashes = _file_hashes(folder, pool)
        key = _digest([FORMAT, PREPROCESSING, image_size, folder.labels, sorted(hashes.items())])
        path = cache_root / f"{prefix}{key[:12]}"
        if manifest_of(path) is None:
            fetch(path)
        manifest = manifest_of(path)
        if manifest is not None:
            # The same photos under other times, or elsewhere: only that is new.
            manifest |= {"stamp": stamp, "root": str(folder.root.resolve())}
            for split, listed in manifest["splits"].items():
                listed["hashes"] = [hashes[f"{split}:{name}"] for name in listed["files"]]
            write_text(path / "manifest.json", json.dumps(manifest, ensure_ascii=False))
            return DatasetCache.open(path)
        try:
            cache_root.mkdir(parents=True, exist_ok=True)
            with (cache_root / ".lock").open("w") as lock:
                # One builder at a time; the system lets go of the lock of a killed one.
                fcntl.flock(lock, fcntl.LOCK_EX)
                if manifest_of(path) is None:
                    before = _decoded_before(found)
                    _build(folder, image_size, path, stamp, hashes, before, pool, progress)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                needed = _num_bytes(folder, image_size) / 2**20
                raise DataError(
                    f"no space for the dataset cache in {cache_root.resolve()}: it needs"
                    f" {needed:.0f} MiB; free some, or choose another place with --cache-dir"
                ) from error
            raise
        return DatasetCache.open(path)


def _build(
    folder: PhotoFolder,
    image_size: int,
    path: Path,
    stamp: str,
    hashes: dict[str, str],
    before: Mapping[str, NDArray[np.uint8]],
    pool: Executor,
    progress: Progress,
) -> None:
    temporary = path.with_name(f".tmp-{path.name}")
    # What killed builds left: nobody else builds while the lock is held.
    for left in path.parent.glob(".tmp-*"):
        shutil.rmtree(left, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        if shutil.disk_usage(temporary).free < _num_bytes(folder, image_size):
            raise OSError(errno.ENOSPC, "no space")
        bad: dict[str, str] = {}
        splits: dict[str, dict[str, list[Any]]] = {}
        done = 0
        for split, members in groupby(folder.photos, key=lambda photo: photo.split):
            photos = list(members)
            wanted = [hashes[f"{split}:{_name(folder, photo)}"] for photo in photos]
            whys: dict[int, str | None] = {}
            for row, why in _fill(
                temporary / f"{split}.npy", resize_size(image_size), photos, wanted, before, pool
            ):  # fmt: skip
                whys[row] = why
                done += 1
                progress(done, len(folder.photos))
            kept = [row for row in range(len(photos)) if whys[row] is None]
            bad |= {_name(folder, photos[row]): why for row, why in whys.items() if why is not None}
            _compact(temporary / f"{split}.npy", kept)
            splits[split] = {
                "files": [_name(folder, photos[row]) for row in kept],
                "targets": [photos[row].target for row in kept],
                "hashes": [wanted[row] for row in kept],
            }
        _require_every_class(folder, splits, bad)
        manifest = {
            "format": FORMAT,
            "preprocessing": PREPROCESSING,
            "image_size": image_size,
            "labels": folder.labels,
            "dataset_hash": _dataset_hash(folder, hashes, bad),
            "stamp": stamp,
            "root": str(folder.root.resolve()),
            "bad_files": bad,
            "splits": splits,
        }
        write_text(temporary / "manifest.json", json.dumps(manifest, ensure_ascii=False))
        temporary.rename(path)
        sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _fill(
    path: Path,
    side: int,
    photos: Sequence[Photo],
    hashes: Sequence[str],
    before: Mapping[str, NDArray[np.uint8]],
    pool: Executor,
) -> Iterator[tuple[int, str | None]]:
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


def _decoded_before(caches: list[Path]) -> dict[str, NDArray[np.uint8]]:
    """Return content hash → pixels (C, C, 3) of every photo in the caches, memory-mapped."""
    known: dict[str, NDArray[np.uint8]] = {}
    for path in caches:
        manifest = manifest_of(path)
        if manifest is None or manifest["preprocessing"] != PREPROCESSING:
            continue
        with suppress(DataError):  # a damaged one is no help, and no hindrance
            for split in DatasetCache.open(path).splits.values():
                known.update(zip(split.hashes, split.images, strict=False))
    return known


def _compact(path: Path, kept: list[int]) -> None:
    """Drop the rows that failed, one row in memory at a time, and cut the file."""
    rows = np.lib.format.open_memmap(path, mode="r")
    if len(kept) == len(rows):
        sync(path)
        return
    smaller = path.with_name(f"smaller-{path.name}")
    target = np.lib.format.open_memmap(
        smaller, mode="w+", dtype=np.uint8, shape=(len(kept), *rows.shape[1:])
    )
    for new, old in enumerate(kept):
        target[new] = rows[old]
    target.flush()
    smaller.replace(path)
    sync(path)


def _require_every_class(
    folder: PhotoFolder, splits: dict[str, dict[str, list[Any]]], bad: dict[str, str]
) -> None:
    for split in ("train", "val"):
        for target in set(range(len(folder.labels))) - set(splits[split]["targets"]):
            first = next(iter(bad.items()))
            raise DataError(
                f"class {folder.labels[target]!r} has no readable photo in {split};"
                f" for example {first[0]}: {first[1]}"
            )


def _name(folder: PhotoFolder, photo: Photo) -> str:
    return photo.path.relative_to(folder.root).as_posix()


def _stamp(folder: PhotoFolder, image_size: int) -> str:
    """Hash names, sizes and times: equal stamps mean that nothing has changed."""
    listed = []
    for photo in folder.photos:
        stat = photo.path.stat()
        listed.append(
            [_name(folder, photo), photo.split, photo.target, stat.st_size, stat.st_mtime_ns]
        )
    return _digest([FORMAT, PREPROCESSING, image_size, folder.labels, listed])


def _file_hashes(folder: PhotoFolder, pool: Executor) -> dict[str, str]:
    """Return split/path → SHA-256 of the content; the split is part of what a cache is."""
    paths = [str(photo.path) for photo in folder.photos]
    digests = pool.map(decoding.digest, paths, chunksize=decoding.AT_ONCE)
    return {
        f"{photo.split}:{_name(folder, photo)}": digest
        for photo, digest in zip(folder.photos, digests, strict=True)
    }


def _dataset_hash(folder: PhotoFolder, hashes: dict[str, str], bad: dict[str, str]) -> str:
    return _digest(
        sorted(
            [
                photo.split,
                folder.labels[photo.target],
                hashes[f"{photo.split}:{_name(folder, photo)}"],
            ]
            for photo in folder.photos
            if _name(folder, photo) not in bad
        )
    )


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode()).hexdigest()


def _num_bytes(folder: PhotoFolder, image_size: int) -> int:
    return len(folder.photos) * resize_size(image_size) ** 2 * 3
