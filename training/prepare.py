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
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.preprocessing import PREPROCESSING, ImageError, load_square, resize_size
from storage import sync
from terminal import Progress, no_progress
from training import mirror
from training.cache import FORMAT, DatasetCache, manifest_of
from training.dataset import Photo, PhotoFolder, scan
from training.errors import DataError
from training.files import write_text

_AT_ONCE = 16
"""Photos of a thread's task: a task for each costs a tenth of the decoding of small photos."""


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
            train or val, or the disk is too small.
    """
    copies = mirror.here(cache_root)
    cache = _prepared(
        scan(data, seed=seed), image_size, copies, progress,
        lambda path: mirror.pulled(cache_root / path.name),
    )  # fmt: skip
    mirror.shared(cache_root / cache.path.name)
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
    hashes = _file_hashes(folder)
    key = _digest([FORMAT, PREPROCESSING, image_size, folder.labels, sorted(hashes.items())])[:12]
    path = cache_root / f"{prefix}{key}"
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
                _build(folder, image_size, path, stamp, hashes, _decoded_before(found), progress)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(
                f"no space for the dataset cache in {cache_root.resolve()}: it needs"
                f" {_num_bytes(folder, image_size) / 2**20:.0f} MiB; free some, or choose another"
                " place with --cache-dir"
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
        # Threads, not processes: Pillow lets go of the GIL while it decodes and resizes.
        with ThreadPoolExecutor(len(os.sched_getaffinity(0)), "decode") as pool:
            for split, members in groupby(folder.photos, key=lambda photo: photo.split):
                photos = list(members)
                rows = _create(temporary / f"{split}.npy", len(photos), resize_size(image_size))
                wanted = [hashes[f"{split}:{_name(folder, photo)}"] for photo in photos]
                starts = range(0, len(photos), _AT_ONCE)
                kept: list[int] = []
                for first, reasons in zip(
                    starts, pool.map(partial(_fill, rows, before, photos, wanted), starts),
                    strict=True,
                ):  # fmt: skip
                    for row, why in enumerate(reasons, first):
                        if why is None:
                            kept.append(row)
                        else:
                            bad[_name(folder, photos[row])] = why
                    done += len(reasons)
                    progress(done, len(folder.photos))
                rows.flush()
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


def _create(path: Path, num_photos: int, side: int) -> np.memmap[Any, np.dtype[np.uint8]]:
    shape = (num_photos, side, side, 3)
    rows = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    with path.open("r+b") as file:
        # Reserved now: a disk that fills up later would kill the process with SIGBUS.
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return rows


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


def _fill(
    rows: NDArray[np.uint8],
    before: Mapping[str, NDArray[np.uint8]],
    photos: Sequence[Photo],
    hashes: Sequence[str],
    first: int,
) -> list[str | None]:
    """Put the pixels of a task's photos into their rows; return for each why not, if it failed."""
    reasons: list[str | None] = []
    for row in range(first, min(first + _AT_ONCE, len(photos))):
        why = None
        try:
            if hashes[row] in before:
                rows[row] = before[hashes[row]]
            else:
                rows[row] = load_square(photos[row].path.read_bytes(), rows.shape[1])
        except (ImageError, OSError) as error:
            why = str(error)
        reasons.append(why)
    return reasons


def _compact(path: Path, kept: list[int]) -> None:
    """Drop the rows that failed, one row in memory at a time, and cut the file."""
    rows = np.lib.format.open_memmap(path, mode="r+")
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


def _file_hashes(folder: PhotoFolder) -> dict[str, str]:
    """Return split/path → SHA-256 of the content; the split is part of what a cache is."""

    def digests(first: int) -> list[tuple[str, str]]:
        return [
            (
                f"{photo.split}:{_name(folder, photo)}",
                hashlib.sha256(photo.path.read_bytes()).hexdigest(),
            )
            for photo in folder.photos[first : first + _AT_ONCE]
        ]

    with ThreadPoolExecutor(len(os.sched_getaffinity(0)), "hash") as pool:
        parts = pool.map(digests, range(0, len(folder.photos), _AT_ONCE))
        return dict(chain.from_iterable(parts))


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
