"""The photos of a run that goes on: those that it began with, whatever became of the folder since.

A run's bits depend on its photos, so new ones wait for the next run. The dataset cache that the run
began with is all that it needs; the folder is looked at only to say what has changed.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from terminal import Progress, no_progress
from training.buckets import mirror
from training.data import decoding
from training.data.cache import DatasetCache, manifest_of
from training.data.dataset import PhotoFolder
from training.data.prepare import prepare, read_photos, stamp_of
from training.errors import DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class Changes:
    """What became of a folder of photos since a cache was made of it, in photos."""

    added: int = 0
    gone: int = 0
    other: int = 0
    """Another content or class under the same name."""
    same: int = 0

    def __str__(self) -> str:
        return f"{self.added} added, {self.gone} gone, {self.other} other"

    def __bool__(self) -> bool:
        return bool(self.added or self.gone or self.other)


def photos_to_go_on_with(
    begun: Mapping[str, Any], found: PhotoFolder | DataError, image_size: int, *,
    cache_root: Path, progress: Progress = no_progress,
) -> tuple[DatasetCache, str]:  # fmt: skip
    """Return the cache that a run began with, and what to tell a person of changes since.

    Args:
        begun: What the run's `config.json` says: `cache` and `dataset_hash`.
        found: What `scan` found in the folder now, or why nothing can be made of it.
        image_size: Side of the model's square, in pixels.
        cache_root: Where caches lie.
        progress: Told how many photos are decoded, where the cache must be made again.

    Raises:
        DataError: The cache is gone, and the photos have changed, so it cannot be made again.
    """
    cache = _opened(begun, cache_root)
    if cache is None:
        return _made_again(begun, found, image_size, cache_root, progress), ""
    if isinstance(found, DataError):
        return cache, (
            f"the photos as they are now cannot be trained on ({found}); the run goes on with those"
            f" that it began with, in {cache.path}"
        )
    changes = since(cache, found, image_size)
    if not changes:
        return cache, ""
    if not changes.same:
        # With no photo in common this is another folder, which the run refuses.
        return prepare(found, image_size, cache_root=cache_root, progress=progress), ""
    return cache, (
        f"photos have changed since the run began: {changes}. It goes on with those that it began"
        f" with, in {cache.path}; the changes wait for the next run"
    )


def _made_again(
    begun: Mapping[str, Any], found: PhotoFolder | DataError, image_size: int, cache_root: Path,
    progress: Progress,
) -> DatasetCache:  # fmt: skip
    """Return a cache like the one that is gone; the photos must be those that it was made of."""
    gone = f"the cache that the run began with, {begun['cache']}, is gone"
    if isinstance(found, DataError):
        raise DataError(f"{gone}, and {found}") from found
    cache = prepare(found, image_size, cache_root=cache_root, progress=progress)
    if cache.dataset_hash != begun["dataset_hash"]:
        raise DataError(
            f"{gone}, and photos have changed since, so that it cannot be made again. Put the cache"
            " back, or begin again under another name"
        )
    return cache


def since(cache: DatasetCache, folder: PhotoFolder, image_size: int) -> Changes:
    """Return what became of a cache's photos; they are read only if times or sizes differ."""
    manifest = manifest_of(cache.path) or {}
    if manifest.get("stamp") == stamp_of(folder, image_size):
        return Changes(same=1)
    with decoding.workers(len(folder.photos)) as pool:
        wanted = read_photos(folder, image_size, "", pool)
    digests = wanted.digests
    split_of = {folder.name(photo): photo.split for photo in wanted.folder.photos}
    now = {
        name: (digests[name], folder.labels[photo.target])
        for photo in folder.photos
        if (name := folder.name(photo)) in digests
    }
    before = {
        name: (digest, cache.labels[target])
        for split in cache.splits.values()
        # Caches of before did not keep hashes.
        for name, digest, target in zip(
            split.files, split.hashes or ("",) * len(split.files), split.targets, strict=True
        )
    }
    shared = before.keys() & now.keys()
    # Drawn splits follow from the photos, and given ones are what a person said.
    other = sum(before[name] != now[name] for name in shared)
    if folder.seed is None:
        moved = {name for at, split in cache.splits.items() for name in split.files
                 if split_of.get(name, at) != at}  # fmt: skip
        other += sum(before[name] == now[name] for name in shared & moved)
    never = cache.bad_files.keys() - set(manifest.get("unread", ()))
    return Changes(
        added=len(now.keys() - before.keys() - never), gone=len(before.keys() - now.keys()),
        other=other, same=sum(before[name] == now[name] for name in shared),
    )  # fmt: skip


def _opened(begun: Mapping[str, Any], cache_root: Path) -> DatasetCache | None:
    """Return the cache that a run began with; None if it is gone, or no longer that one."""
    path = Path(begun["cache"])
    if not (path / "manifest.json").is_file():
        # A run that another machine began names a place there.
        path = mirror.pull(cache_root / path.name)
    with suppress(DataError):
        cache = DatasetCache.open(path)
        if cache.dataset_hash == begun["dataset_hash"]:
            return cache
    return None
