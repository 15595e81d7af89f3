"""A look at a folder of photos before it is trained on: what is there, and what is wrong.

scan ─► every file decoded once, as serving decodes (looks) ─► copies (duplicates) ─► Sheet
Sheet ─► JSON, one picture (contact_sheet), a page (sheet)
"""

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from photo_folder import scan as photos
from photo_folder.errors import FolderError
from photo_folder.layout import SPLITS
from photo_folder.names import Kind, printable
from terminal import Progress, no_progress
from training.data import decoding
from training.data.dataset import Photo, PhotoFolder, readable, split
from training.datasheet import duplicates
from training.datasheet.looks import Look, look, small
from training.errors import DataError

_UNSPLIT = "all"


@dataclass(frozen=True, slots=True)
class Copies:
    """One picture that lies in the folder more than once."""

    kind: str
    """`exact`: the same bytes; `near`: resized, recompressed, or all but the same shot."""
    photos: tuple[Photo, ...]

    @property
    def across_splits(self) -> bool:
        """Return whether it leaks: what is trained on is also measured on."""
        return len({photo.split for photo in self.photos}) > 1

    @property
    def across_labels(self) -> bool:
        """Return whether it stands under two labels, of which one is wrong."""
        return len({photo.target for photo in self.photos}) > 1


@dataclass(frozen=True, slots=True)
class Sheet:
    """What `inspect` found."""

    folder: PhotoFolder
    looks: tuple[Look | None, ...]
    """For each photo of the folder, in its order; None for an unreadable one."""
    bad_files: dict[str, str]
    """Path below the folder → why it cannot be decoded; training leaves it out."""
    copies: tuple[Copies, ...]
    decomposed: tuple[str, ...]
    """Class folders whose names are stored in NFD, as a Mac does; they are read as NFC."""
    error: str | None
    """Why the folder cannot be trained on as it is."""

    def counts(self) -> dict[str, dict[str, int]]:
        """Return files per split and class, unreadable ones included."""
        counted = Counter((photo.split, photo.target) for photo in self.folder.photos)
        return {
            split: {
                label: counted[split, target] for target, label in enumerate(self.folder.labels)
            }
            for split in (*SPLITS, _UNSPLIT)
            if any(found == split for found, _ in counted)
        }

    def leaks(self) -> list[Copies]:
        """Return pictures that lie in two splits or more."""
        return [found for found in self.copies if found.across_splits]

    def conflicts(self) -> list[Copies]:
        """Return pictures that stand under two labels or more."""
        return [found for found in self.copies if found.across_labels]

    def repeats(self) -> list[Copies]:
        """Return pictures that are repeated within one split and class, which is only waste."""
        return [found for found in self.copies if not found.across_splits | found.across_labels]

    def notes(self) -> dict[str, list[str]]:
        """Return photos that are unusual, by what is unusual; training takes them all the same."""
        found: dict[str, list[str]] = {}
        for photo, seen in zip(self.folder.photos, self.looks, strict=True):
            for note in seen.notes() if seen is not None else ():
                found.setdefault(note, []).append(self.name(photo))
        return found

    def problems(self) -> list[str]:
        """Return, in a few words each, what should be mended before training."""
        leaks, conflicts = len(self.leaks()), len(self.conflicts())
        closed = self.folder.left_out.count(Kind.UNREADABLE)
        return [
            words
            for words, holds in (
                (self.error or "", self.error),
                (f"{len(self.bad_files)} unreadable", self.bad_files),
                (f"{closed} files or folders that cannot be opened", closed),
                (f"{leaks} in more than one split", leaks),
                (f"{conflicts} under more than one label", conflicts),
            )
            if holds
        ]

    def one_of_each(self) -> list[Photo | None]:
        """Return the first readable photo of each class."""
        first: dict[int, Photo] = {}
        for photo, seen in zip(self.folder.photos, self.looks, strict=True):
            if seen is not None:
                first.setdefault(photo.target, photo)
        return [first.get(target) for target in range(len(self.folder.labels))]

    def name(self, photo: Photo) -> str:
        """Return a photo's path below the folder, in one line of valid Unicode."""
        return printable(self.folder.name(photo))

    def colours(self) -> tuple[list[float], list[float]]:
        """Return mean and deviation of red, green and blue over all readable photos, 0 to 1.

        Of the central squares: what a model sees.
        """
        seen = [found for found in self.looks if found is not None]
        mean = np.mean([found.mean for found in seen], 0)
        square = np.mean([found.square for found in seen], 0)
        deviation = np.sqrt(np.maximum(square - mean**2, 0))
        return [float(v) for v in mean], [float(v) for v in deviation]

    def tally(self, attribute: str) -> dict[str, int]:
        """Return how many photos have each value of an attribute of `Look`, the commonest first."""
        values = (str(getattr(found, attribute)) for found in self.looks if found is not None)
        return dict(Counter(values).most_common())

    def imbalance(self) -> float | None:
        """Return how many times more training photos the largest class has than the smallest."""
        counts = self.counts()
        found = counts.get("train") or counts.get(_UNSPLIT) or {}
        smallest = min(found.values(), default=0)
        return max(found.values()) / smallest if smallest else None

    def to_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        seen = [found for found in self.looks if found is not None]
        mean, deviation = self.colours() if seen else ([], [])
        return {
            "folder": str(self.folder.root),
            "labels": list(self.folder.labels),
            "counts": self.counts(),
            "imbalance": self.imbalance(),
            "problems": self.problems(),
            "bad_files": self.bad_files,
            "duplicates_across_splits": self._listed(self.leaks()),
            "two_labels": self._listed(self.conflicts()),
            "repeats": self._listed(self.repeats()),
            "notes": self.notes(),
            "formats": self.tally("format"),
            "modes": self.tally("mode"),
            "orientations": self.tally("orientation"),
            "sizes": _spread([min(found.width, found.height) for found in seen]),
            "channel_means": mean,
            "channel_deviations": deviation,
            "decomposed_names": list(self.decomposed),
            "ignored_files": self.folder.left_out.count(),
            "left_out": self.folder.left_out.to_dict(),
            "error": self.error,
        }

    def _listed(self, found: Iterable[Copies]) -> list[dict[str, Any]]:
        return [
            {"kind": copies.kind, "files": [self.name(photo) for photo in copies.photos]}
            for copies in found
        ]


def inspect(
    data: Path,
    *,
    seed: int = 0,
    tell: Callable[[str], object] = lambda _: None,
    progress: Progress = no_progress,
) -> Sheet:
    """Read every photo of a folder, also of one that `scan` refuses: the sheet says why.

    Args:
        data: The folder, or a table of photos.
        seed: Draws the splits of a folder that has none.
        tell: Is told what was left out, a line each, before photos are read.
        progress: Told how many photos were looked at.

    Raises:
        DataError: There is no folder, or no photo in it, or a process that decodes was killed.
    """
    folder, error = _folder(data, seed)
    for line in folder.lines():
        tell(line)
    paths = [photo.path for photo in folder.photos]
    bad: dict[str, str] = {}
    looks: list[Look | None] = []
    with decoding.workers(len(paths)) as pool:
        each = pool.map(look, paths, chunksize=decoding.AT_ONCE)
        for photo, found in zip(folder.photos, each, strict=True):
            if isinstance(found, str):
                bad[folder.name(photo)] = found
            looks.append(None if isinstance(found, str) else found)
            progress(len(looks), len(paths))
    seen_at = [index for index, found in enumerate(looks) if found is not None]
    seen = [found for found in looks if found is not None]
    groups = duplicates.find(
        [found.digest for found in seen],
        [found.hash for found in seen],
        lambda position: small(paths[seen_at[position]]),
        progress,
    )
    copies = tuple(
        Copies(group.kind, tuple(folder.photos[seen_at[member]] for member in group.members))
        for group in groups
    )
    if error is None:
        try:
            readable(folder, bad)
        except DataError as refused:
            error = str(refused)
    named = {printable(name): why for name, why in bad.items()}
    return Sheet(folder, tuple(looks), named, copies, _decomposed(folder), error)


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


def _spread(values: list[int]) -> dict[str, int]:
    """Return the smallest, median and largest shorter side, in pixels."""
    if not values:
        return {}
    return {"min": min(values), "median": int(np.median(values)), "max": max(values)}


def _folder(place: Path, seed: int) -> tuple[PhotoFolder, str | None]:
    """Return the photos of a folder, and why they cannot be trained on if so."""
    try:
        found = photos.scan(place)
    except FolderError as error:
        raise DataError(str(error)) from error
    refusal = found.refusal
    try:
        if not refusal:
            return split(found, seed=seed), None
    except DataError as error:
        refusal = str(error)
    if not found.photos:
        raise DataError(refusal)
    labels = tuple(sorted({photo.label for photo in found.photos}))
    target_of = {label: target for target, label in enumerate(labels)}
    listed = tuple(
        Photo(found.root / photo.name, photo.split or _UNSPLIT, target_of[photo.label])
        for photo in found.photos
    )
    return PhotoFolder(
        found.root, found.title, labels, listed, found.left_out, found.notes, None
    ), refusal
