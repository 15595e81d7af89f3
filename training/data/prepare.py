"""Finds the dataset cache of a folder of photos, or has it built: nothing is decoded twice.

Names, sizes and times say whether anything has changed; if so, every photo is read and hashed, and
what stands in an older cache of the folder is copied from there: a night's new photos cost a
night's. `building.py` decodes the others.
"""

import errno
import fcntl
import glob
import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from pathlib import Path

from photo_folder.reading import reason
from service.pixels.preprocessing import PREPROCESSING
from storage import require_writable
from terminal import Progress, no_progress
from training.buckets import mirror
from training.data import building, decoding, splits
from training.data.building import Wanted
from training.data.cache import FORMAT, DatasetCache, crops_side, manifest_of
from training.data.dataset import PhotoFolder, draw, scan
from training.errors import DataError
from training.files import write_text

_NAME_BYTES = 180
"""Of a folder's name in its cache's; file systems take 255, and the key comes after it."""


def prepare(
    data: Path | PhotoFolder,
    image_size: int,
    *,
    cache_root: Path = Path("cache"),
    seed: int = 0,
    progress: Progress = no_progress,
) -> DatasetCache:
    """Return the cache of a folder of photos; build it with every core unless it is up to date.

    Where `cache_root` is `s3://…`, it is fetched from there, or pushed once it is built.

    Args:
        data: The folder, or a table of photos; or what `scan` found in it.
        image_size: Side of the model's square, in pixels.
        cache_root: Where caches lie.
        seed: Draws the splits of a folder that has none, unless it is scanned already.
        progress: Told how many photos are decoded.

    Raises:
        DataError: The folder cannot be trained on (see `scan`), a class has no readable photo in
            train or val, the disk is too small, or a process that decodes was killed.
        StorageError: The cache's folder cannot be written.
    """
    folder = data if isinstance(data, PhotoFolder) else scan(data, seed=seed)
    copies = mirror.local_path(cache_root)
    try:
        cache = _prepared(
            folder, image_size, copies, progress,
            lambda path: mirror.pull(cache_root / path.name),
        )  # fmt: skip
    except OSError as error:
        raise DataError(
            f"the dataset cache cannot be kept in {copies.absolute()} ({reason(error)}); choose"
            " another place with --cache-dir"
        ) from error
    mirror.push_once(cache_root / cache.path.name)
    return cache.with_groups(folder.groups())


def contents(folder: PhotoFolder) -> dict[str, str]:
    """Read every photo of a folder; return name → SHA-256 of those that can be read."""
    with decoding.workers(len(folder.photos)) as pool:
        return dict(read_photos(folder, 0, "", pool).digests)


def _prepared(
    folder: PhotoFolder,
    image_size: int,
    cache_root: Path,
    progress: Progress,
    fetch: Callable[[Path], object],
) -> DatasetCache:
    prefix = f"{_shortened(folder.title)}-{image_size}-"
    stamp = stamp_of(folder, image_size)
    # A folder may be named "photos [new]".
    found = [path for path in sorted(cache_root.glob(f"{glob.escape(prefix)}*")) if path.is_dir()]
    for path in found:
        if (cache := _unchanged(path, folder, stamp)) is not None:
            return cache
    if not found:  # else the photos may be those of an older cache, under other times
        require_writable(cache_root, "--cache-dir")
    with decoding.workers(len(folder.photos)) as pool:
        wanted = read_photos(folder, image_size, stamp, pool)
        path = cache_root / f"{prefix}{wanted.key()[:12]}"
        if _opened(path) is None:
            fetch(path)
        if _opened(path) is None:
            require_writable(cache_root, "--cache-dir")
            cache_root.mkdir(parents=True, exist_ok=True)
            with (cache_root / ".lock").open("w") as lock:
                # One builder at a time; the system lets go of the lock of a killed one.
                fcntl.flock(lock, fcntl.LOCK_EX)
                if _opened(path) is None:
                    with _with_room(wanted, cache_root):
                        building.build(wanted, path, found, pool, progress)
                    return DatasetCache.open(path)
        _touch(path, wanted)
        return DatasetCache.open(path)


def _unchanged(path: Path, folder: PhotoFolder, stamp: str) -> DatasetCache | None:
    """Return a cache that was made of these very files, unless more of them can be read now."""
    with suppress(DataError):  # a damaged one is built again
        manifest = manifest_of(path) or {}
        root = folder.root.resolve()
        if manifest.get("stamp") != stamp or manifest.get("root") != str(root):
            return None
        bad = manifest.get("bad_files", {})
        # Caches of before did not tell what was unreadable for a time from what is no picture.
        unread = manifest.get("unread", [name for name in bad if bad[name].startswith("[Errno")])
        if not any(decoding.digest(str(root / name)).digest for name in unread):
            return DatasetCache.open(path)
    return None


def _opened(path: Path) -> DatasetCache | None:
    with suppress(DataError):
        return DatasetCache.open(path)
    return None


def _touch(path: Path, wanted: Wanted) -> None:
    """Write down that the same photos are there under other times, or elsewhere."""
    manifest = manifest_of(path) or {}
    manifest |= {"stamp": wanted.stamp, "root": str(wanted.folder.root.resolve())}
    for listed in manifest["splits"].values():
        listed["hashes"] = [wanted.digests[name] for name in listed["files"]]
    # Where only others may write, the photos are read again the next time.
    with suppress(OSError):
        write_text(path / "manifest.json", json.dumps(manifest, ensure_ascii=False))


def read_photos(folder: PhotoFolder, image_size: int, stamp: str, pool: Executor) -> Wanted:
    """Read every photo once, for the hash of its content; draw the splits if none are given."""
    names = [folder.name(photo) for photo in folder.photos]
    paths = [str(photo.path) for photo in folder.photos]
    read = dict(zip(names, pool.map(decoding.digest, paths, chunksize=decoding.AT_ONCE),
                    strict=True))  # fmt: skip
    digests = {name: each.digest for name, each in read.items() if each.digest}
    return Wanted(
        folder=draw(folder, digests),
        image_size=image_size,
        stamp=stamp,
        digests=digests,
        unread={name: each.why for name, each in read.items() if not each.digest},
    )


@contextmanager
def _with_room(wanted: Wanted, cache_root: Path) -> Iterator[None]:
    """Say how much is needed where the disk is too small, before or after it is full."""
    try:
        if shutil.disk_usage(cache_root).free < wanted.num_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DataError(
            f"no space for the dataset cache in {cache_root.resolve()}: it needs"
            f" {wanted.num_bytes / 2**20:.0f} MiB; free some, or choose another place with"
            " --cache-dir"
        ) from error


def stamp_of(folder: PhotoFolder, image_size: int) -> str:
    """Hash names, sizes and times: equal stamps mean that nothing has changed.

    Splits that are drawn follow from the seed, the groups and the contents.
    """
    listed = [
        [folder.name(photo), photo.split, photo.target, photo.num_bytes, photo.mtime_ns]
        for photo in folder.photos
    ]
    drawn = [folder.seed, [photo.group for photo in folder.photos]]
    return building.hash_of(
        [FORMAT, PREPROCESSING, image_size, crops_side(image_size), folder.labels, listed]
        + ([] if folder.seed is None else [splits.RULE, drawn])
        + (["judging", drawn] if folder.judging else [])
    )


def _shortened(title: str) -> str:
    return os.fsencode(title)[:_NAME_BYTES].decode(errors="ignore")
