"""A look at a folder of photos before it is trained on: what is there, and what is wrong.

scan ─► every file decoded once, as serving decodes (looks) ─► copies (duplicates) ─► Sheet
Sheet ─► JSON, one picture (contact_sheet), a page (sheet)
"""

import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from photo_folder import scan as photos
from photo_folder.errors import FolderError
from photo_folder.names import printable
from terminal import Progress, no_progress
from training.buckets.photos import fetched
from training.data import decoding
from training.data.dataset import Photo, PhotoFolder, draw, labelled, readable
from training.datasheet import bursts, duplicates
from training.datasheet.findings import UNSPLIT, Copies, Sheet
from training.datasheet.looks import Look, look, small
from training.errors import DataError


def inspect(
    data: Path,
    *,
    seed: int = 0,
    group: str = "",
    tell: Callable[[str], object] = lambda _: None,
    progress: Progress = no_progress,
) -> Sheet:
    """Read every photo of a folder, also of one that `scan` refuses: the sheet says why.

    Args:
        data: The folder, also `s3://…`, or a table of photos.
        seed: Draws the splits of a folder that has none.
        group: The rule for what belongs together (see `photo_folder.groups`).
        tell: Is told what was left out, a line each, before photos are read.
        progress: Told how many photos were looked at.

    Raises:
        DataError: There is no folder, or no photo in it, the rule groups none, or a process that
            decodes was killed.
        StorageError: The bucket cannot be read, or its copy not be kept.
    """
    folder, error = _folder(data, seed, group)
    for line in folder.lines():
        tell(line)
    found = _looked(folder, progress)
    if error is None:
        folder, error = _split(folder, found)
    looks = [found[folder.name(photo)] for photo in folder.photos]
    seen = [(photo, look) for photo, look in zip(folder.photos, looks, strict=True)
            if not isinstance(look, str)]  # fmt: skip
    groups = duplicates.find(
        [look.digest for _, look in seen],
        [look.hash for _, look in seen],
        lambda position: small(seen[position][0].path),
        progress,
    )
    copies = tuple(
        Copies(group.kind, tuple(seen[member][0] for member in group.members)) for group in groups
    )
    named = {printable(name): why for name, why in found.items() if isinstance(why, str)}
    readable_looks = tuple(None if isinstance(look, str) else look for look in looks)
    return Sheet(
        folder,
        readable_looks,
        named,
        copies,
        bursts.found(folder.photos, readable_looks, [same.photos for same in copies]),
        _decomposed(folder),
        error,
    )


def _looked(folder: PhotoFolder, progress: Progress) -> dict[str, Look | str]:
    """Return each photo's look by its name, or why it cannot be read."""
    paths = [photo.path for photo in folder.photos]
    found: dict[str, Look | str] = {}
    with decoding.workers(len(paths)) as pool:
        each = pool.map(look, paths, chunksize=decoding.AT_ONCE)
        for photo, seen in zip(folder.photos, each, strict=True):
            found[folder.name(photo)] = seen
            progress(len(found), len(paths))
    return found


def _split(folder: PhotoFolder, found: Mapping[str, Look | str]) -> tuple[PhotoFolder, str | None]:
    """Return the folder with its splits drawn, if they are, and why it cannot be trained on."""
    digests = {name: seen.digest for name, seen in found.items() if not isinstance(seen, str)}
    bad = {name: seen for name, seen in found.items() if isinstance(seen, str)}
    try:
        folder = draw(folder, digests)
        readable(folder, bad)
    except DataError as refused:
        unsplit = tuple(replace(photo, split=photo.split or UNSPLIT) for photo in folder.photos)
        return replace(folder, photos=unsplit), str(refused)
    return folder, None


def _decomposed(folder: PhotoFolder) -> tuple[str, ...]:
    parents = {photo.path.parent for photo in folder.photos}
    return tuple(
        sorted(
            printable(parent.relative_to(folder.root).as_posix())
            for parent in parents
            if parent.is_relative_to(folder.root)
            and not unicodedata.is_normalized("NFC", parent.name)
        )
    )


def _folder(place: Path, seed: int, group: str) -> tuple[PhotoFolder, str | None]:
    """Return the photos of a folder, and why they cannot be trained on if so."""
    try:
        found = photos.scan(fetched(place), group=group)
    except FolderError as error:
        raise DataError(str(error)) from error
    refusal = found.refusal
    try:
        if not refusal:
            return labelled(found, seed=seed), None
    except DataError as error:
        refusal = str(error)
    if not found.photos:
        raise DataError(refusal)
    labels = tuple(sorted({photo.label for photo in found.photos}))
    target_of = {label: target for target, label in enumerate(labels)}
    listed = tuple(
        Photo(found.root / photo.name, photo.split or UNSPLIT, target_of[photo.label], photo.group)
        for photo in found.photos
    )
    return PhotoFolder(
        found.root, found.title, labels, listed, found.left_out, found.notes, None
    ), refusal
