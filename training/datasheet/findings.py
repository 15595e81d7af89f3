"""What an inspection found: the photos, what each is like, copies, groups, and what to mend."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from photo_folder.groups import parted
from photo_folder.layout import SPLITS
from photo_folder.names import Kind, printable
from training.data.dataset import Photo, PhotoFolder
from training.datasheet import bursts
from training.datasheet.looks import Look

UNSPLIT = "all"
"""The split of photos that cannot be split."""


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
    bursts: tuple[str, ...]
    """For each photo of the folder, what it seems to share with others (see `bursts.py`)."""
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
            for split in (*SPLITS, UNSPLIT)
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

    def parted(self) -> dict[str, tuple[str, ...]]:
        """Return the groups that lie in several splits, which leak, and these splits."""
        return parted((photo.group, photo.split) for photo in self.folder.photos)

    def advice(self) -> tuple[str, str]:
        """Return what to do about photos that come in bursts, and the rule; empty if nothing."""
        return bursts.advice(self.folder, self.bursts)

    def problems(self) -> list[str]:
        """Return, in a few words each, what should be mended before training."""
        leaks, conflicts = len(self.leaks()), len(self.conflicts())
        groups = len(self.parted())
        closed = self.folder.left_out.count(Kind.UNREADABLE)
        return [
            words
            for words, holds in (
                (self.error or "", self.error),
                (f"{len(self.bad_files)} unreadable", self.bad_files),
                (f"{closed} files or folders that cannot be opened", closed),
                (f"{leaks} in more than one split", leaks),
                (f"{groups} groups in more than one split", groups),
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
        found = counts.get("train") or counts.get(UNSPLIT) or {}
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
            "groups": len({photo.group for photo in self.folder.photos if photo.group}),
            "groups_across_splits": {name: list(of) for name, of in self.parted().items()},
            "bursts": len(set(self.bursts) - {""}),
            "advice": self.advice()[0],
            "suggested_group": self.advice()[1],
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


def _spread(values: list[int]) -> dict[str, int]:
    """Return the smallest, median and largest shorter side, in pixels."""
    if not values:
        return {}
    return {"min": min(values), "median": int(np.median(values)), "max": max(values)}
