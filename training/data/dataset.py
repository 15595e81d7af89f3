"""A folder or a table of photos → labels, splits and files. Names only; `prepare` reads photos."""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from photo_folder import scan as photos
from photo_folder.errors import FolderError
from photo_folder.found import Scanned
from photo_folder.layout import SPLITS
from photo_folder.left_out import LeftOut
from training.errors import DataError

_SHARES = {"val": 0.1, "test": 0.1}


@dataclass(frozen=True, slots=True)
class Photo:
    """One file, the split it belongs to, and its class as a position in the labels."""

    path: Path
    split: str
    target: int
    group: str = ""
    """What it shares with other photos, such as the object; empty if that is not known."""
    num_bytes: int = 0
    mtime_ns: int = 0


@dataclass(frozen=True, slots=True)
class PhotoFolder:
    """What `scan` found."""

    root: Path
    title: str
    """What caches are named after."""
    labels: tuple[str, ...]
    """Class names in Unicode NFC, sorted."""
    photos: tuple[Photo, ...]
    """Sorted by split, class and path."""
    left_out: LeftOut
    notes: tuple[str, ...]
    """What was understood and is not plain to see, a line each."""
    seed: int | None
    """What drew the splits; None where they were given."""

    def counts(self) -> dict[str, dict[str, int]]:
        """Return photos per split and class."""
        counted = Counter((photo.split, photo.target) for photo in self.photos)
        return {
            split: {label: counted[split, target] for target, label in enumerate(self.labels)}
            for split in SPLITS
            if any(found == split for found, _ in counted)
        }

    def name(self, photo: Photo) -> str:
        """Return a photo's path below the root; the whole path of one that lies elsewhere."""
        # Asked several times for each photo, where pathlib takes as long as a look at the disk.
        path, root = str(photo.path), f"{self.root}/"
        return path[len(root) :] if path.startswith(root) else path

    def lines(self) -> list[str]:
        """Return what to tell a person before any work: what was left out, and how it was read."""
        return [*self.left_out.lines(), *self.notes]


def scan(place: Path, *, seed: int = 0) -> PhotoFolder:
    """Find the photos of splits of class folders, of class folders alone, or of a table.

    Class folders alone are split 80/10/10 within each class, by `seed`; a class of two photos has
    one in train and one in val. Photos of one group stay in one split.

    Raises:
        DataError: No photos, a class missing from train or val, names that are refused (see
            `Scanned.refusal`), or too few photos to split.
    """
    try:
        found = photos.scan(place)
    except FolderError as error:
        raise DataError(str(error)) from error
    if found.refusal:
        raise DataError(found.refusal)
    return split(found, seed=seed)


def split(found: Scanned, *, seed: int) -> PhotoFolder:
    """Return what was found with every photo in a split; the splits that were given, or drawn.

    Raises:
        DataError: A class is missing from train or val, or has too few photos to split.
    """
    labels = sorted({photo.label for photo in found.photos})
    if len(labels) < 2:
        raise DataError(
            f"{found.root} has one class with photos ({labels[0] if labels else 'none'!r}), and two"
            " or more are needed"
        )
    target_of = {label: target for target, label in enumerate(labels)}
    members = [
        Photo(
            found.root / photo.name, photo.split, target_of[photo.label], photo.group,
            photo.num_bytes, photo.mtime_ns,
        )
        for photo in found.photos
    ]  # fmt: skip
    drawn = not all(photo.split for photo in members)
    if drawn:
        members = _drawn(members, labels, seed)
    folder = PhotoFolder(
        found.root, found.title, tuple(labels), _sorted(members), found.left_out, found.notes,
        seed if drawn else None,
    )  # fmt: skip
    _require_every_class(folder, {})
    return folder


def readable(folder: PhotoFolder, bad: Mapping[str, str]) -> PhotoFolder:
    """Return a folder without the photos that turned out bad.

    A class whose split was drawn, and that is left without a photo in train or val, is drawn anew
    among its good photos: a bad photo costs nothing but itself.

    Args:
        folder: What `scan` returned.
        bad: Name of a photo → why it cannot be read.

    Raises:
        DataError: A class has too few good photos; one bad photo is named with its reason.
    """
    good = [photo for photo in folder.photos if folder.name(photo) not in bad]
    if folder.seed is not None:
        there = {(photo.split, photo.target) for photo in good}
        short = {
            target
            for target in range(len(folder.labels))
            if not {("train", target), ("val", target)} <= there
        }
        if any(photo.group for photo in folder.photos) and short:
            short = set(range(len(folder.labels)))
        members = [photo for photo in good if photo.target in short]
        members.sort(key=lambda photo: photo.path.parts)
        good = [photo for photo in good if photo.target not in short]
        good += _drawn(members, folder.labels, folder.seed, _example(folder, bad, short))
    left = replace(folder, photos=_sorted(good))
    _require_every_class(left, _example(folder, bad, range(len(folder.labels))))
    return left


def _sorted(members: Sequence[Photo]) -> tuple[Photo, ...]:
    return tuple(
        sorted(
            members,
            key=lambda photo: (SPLITS.index(photo.split), photo.target, photo.path.parts),
        )
    )


def _example(
    folder: PhotoFolder, bad: Mapping[str, str], targets: Collection[int]
) -> dict[int, str]:
    """Return a bad photo of each class, with its reason."""
    found: dict[int, str] = {}
    for photo in folder.photos:
        name = folder.name(photo)
        if name in bad and photo.target in targets:
            found.setdefault(photo.target, f"; for example {name}: {bad[name]}")
    return found


def _require_every_class(folder: PhotoFolder, example: Mapping[int, str]) -> None:
    there = {(photo.split, photo.target) for photo in folder.photos}
    for split in ("train", "val"):
        missing = [target for target in range(len(folder.labels)) if (split, target) not in there]
        if not missing:
            continue
        named = ", ".join(repr(folder.labels[target]) for target in missing[:5])
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        if example:
            raise DataError(
                f"class {named}{more} has no readable photo in {split}{example.get(missing[0], '')}"
            )
        other = "train" if split == "val" else "val or test"
        lines = "; ".join(folder.left_out.lines()[:1])
        raise DataError(
            f"class {named}{more} is missing from {split} in {folder.root}: it has no photos there,"
            f" only in {other}; every class needs photos in train and in val"
            f"{f' ({lines})' if lines else ''}"
        )


def _drawn(
    members: Sequence[Photo], labels: Sequence[str], seed: int, why: Mapping[int, str] | None = None
) -> list[Photo]:
    """Return photos, sorted by path, with the splits that are drawn for them."""
    if any(photo.group for photo in members):
        return _drawn_by_group(members, labels, seed)
    classes: dict[int, list[Photo]] = defaultdict(list)
    for photo in members:
        classes[photo.target].append(photo)
    found = []
    for target, photos_of in sorted(classes.items()):
        if len(photos_of) < 2:
            readable = "readable " if why else ""
            raise DataError(
                f"class {labels[target]!r} has one {readable}photo ({photos_of[0].path.name}); two"
                f" are needed, one to train and one to validate{(why or {}).get(target, '')}; add"
                " photos, or move the class away"
            )
        order = np.random.Generator(np.random.Philox(key=[seed, target])).permutation(
            len(photos_of)
        )
        start = 0
        for split, share in _SHARES.items():
            count = max(1, round(share * len(photos_of)))
            # Two photos are one to train and one to validate.
            if start + count >= len(photos_of):
                continue
            found += [replace(photos_of[i], split=split) for i in order[start : start + count]]
            start += count
        found += [replace(photos_of[i], split="train") for i in order[start:]]
    return found


def _drawn_by_group(members: Sequence[Photo], labels: Sequence[str], seed: int) -> list[Photo]:
    """Return photos with splits that cut no group; one without a group is a group of its own."""
    groups: dict[str, list[Photo]] = defaultdict(list)
    for photo in members:
        groups[photo.group or f"\0{photo.path}"].append(photo)
    total = Counter(photo.target for photo in members)
    left = Counter(target for group in groups.values() for target in {p.target for p in group})
    for target in sorted(total):
        if left[target] < 2:
            raise DataError(
                f"the photos of class {labels[target]!r} are one group; two groups are needed, one"
                " to train and one to validate"
            )
    names = sorted(groups)
    order = np.random.Generator(np.random.Philox(key=[seed, 0])).permutation(len(names))
    placed: dict[str, Counter[int]] = {split: Counter() for split in _SHARES}
    found = []
    for index in order:
        group = groups[names[index]]
        targets = {photo.target for photo in group}
        chosen = "train"
        # The last group of a class is for training.
        if all(left[target] > 1 for target in targets):
            for split, share in _SHARES.items():
                wanted = {t: max(1, round(share * total[t])) for t in targets}
                if any(placed[split][t] < wanted[t] for t in targets):
                    chosen = split
                    break
        if chosen != "train":
            placed[chosen].update(photo.target for photo in group)
            left.subtract(targets)
        found += [replace(photo, split=chosen) for photo in group]
    return found
