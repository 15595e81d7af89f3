"""A folder or a table of photos → labels, splits and files. Names only; `prepare` reads photos.

scan ─► splits that were given, or none yet ─► contents read ─► `draw` ─► splits
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from photo_folder import scan as photos
from photo_folder.errors import FolderError
from photo_folder.found import Scanned
from photo_folder.layout import SPLITS
from photo_folder.left_out import LeftOut
from training.buckets.photos import fetched
from training.data import splits
from training.errors import DataError

_ORDER = (*SPLITS, "")


@dataclass(frozen=True, slots=True)
class Photo:
    """One file, the split it belongs to, and its class as a position in the labels."""

    path: Path
    split: str
    """train, val or test; empty while it is not drawn."""
    target: int
    group: str = ""
    """What it shares with other photos, such as the object; empty if that is not known."""
    digest: str = ""
    """SHA-256 of its content, where its split was drawn."""
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
    """What draws the splits; None where they were given."""
    judging: bool = False
    """Whether a third of the validation photos is kept as the test split (see `judged`)."""

    def counts(self) -> dict[str, dict[str, int]]:
        """Return photos per split and class."""
        counted = Counter((photo.split, photo.target) for photo in self.photos)
        return {
            split: {label: counted[split, target] for target, label in enumerate(self.labels)}
            for split in _ORDER
            if any(found == split for found, _ in counted)
        }

    def name(self, photo: Photo) -> str:
        """Return a photo's path below the root; the whole path of one that lies elsewhere."""
        # Asked several times for each photo, where pathlib takes as long as a look at the disk.
        path, root = str(photo.path), f"{self.root}/"
        return path[len(root) :] if path.startswith(root) else path

    def groups(self) -> dict[str, str]:
        """Return name → group, of the photos that are in one."""
        return {self.name(photo): photo.group for photo in self.photos if photo.group}

    def lines(self) -> list[str]:
        """Return what to tell a person before any work: what was left out, and how it was read."""
        return [*self.left_out.lines(), *self.notes]


def scan(place: Path, *, seed: int = 0, group: str = "") -> PhotoFolder:
    """Find the photos of splits of class folders, of class folders alone, or of a table.

    Args:
        place: The folder, also `s3://…` (see `training.buckets.photos`), or the table.
        seed: Draws the splits where none are given (see `draw`).
        group: The rule for what belongs together (see `photo_folder.groups`).

    Raises:
        DataError: No photos, a class missing from train or val, names that are refused (see
            `Scanned.refusal`), too few photos to split, or a rule that groups none.
        StorageError: The bucket cannot be read, or its copy not be kept.
    """
    try:
        found = photos.scan(fetched(place), group=group)
    except FolderError as error:
        raise DataError(str(error)) from error
    if found.refusal:
        raise DataError(found.refusal)
    return labelled(found, seed=seed)


def labelled(found: Scanned, *, seed: int) -> PhotoFolder:
    """Return what was found with classes as numbers, in the splits that were given, or in none yet.

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
    given = all(photo.split for photo in found.photos)
    members = [
        Photo(
            found.root / photo.name, photo.split if given else "", target_of[photo.label],
            photo.group, num_bytes=photo.num_bytes, mtime_ns=photo.mtime_ns,
        )
        for photo in found.photos
    ]  # fmt: skip
    folder = PhotoFolder(
        found.root, found.title, tuple(labels), _sorted(members), found.left_out, found.notes,
        None if given else seed,
    )  # fmt: skip
    if given:
        _require_every_class(folder, {})
    else:
        _require_two_units(folder, {})
    return folder


def judged(folder: PhotoFolder) -> PhotoFolder:
    """Return a folder that keeps a third of its validation photos as its test split, once drawn.

    A search chooses on the others. One that has a test split, or whose splits are drawn, is
    returned as it is.
    """
    has_test = any(photo.split == "test" for photo in folder.photos)
    return folder if has_test or folder.seed is not None else replace(folder, judging=True)


def draw(folder: PhotoFolder, digests: Mapping[str, str]) -> PhotoFolder:
    """Return a folder with its splits drawn: 80/10/10 by a hash of each group or content.

    Args:
        folder: What `scan` returned. Of splits that were given, only the photos for judging are
            drawn, where the folder keeps some.
        digests: Name of a photo → SHA-256 of its content; of those that can be read.

    Raises:
        DataError: All photos of a class are one group.
    """
    if folder.seed is None and not folder.judging:
        return folder
    known = [replace(photo, digest=digests.get(folder.name(photo), "")) for photo in folder.photos]
    folder = replace(folder, photos=tuple(known))
    return _keeping(folder) if folder.seed is None else _drawn(folder, folder.seed, {})


def readable(folder: PhotoFolder, bad: Mapping[str, str]) -> PhotoFolder:
    """Return a folder without the photos that turned out bad.

    A class whose split was drawn, and that is left without a photo in train or val, borrows one: a
    bad photo costs nothing but itself.

    Args:
        folder: What `scan` or `draw` returned.
        bad: Name of a photo → why it cannot be read.

    Raises:
        DataError: A class has too few good photos; one bad photo is named with its reason.
    """
    good = tuple(photo for photo in folder.photos if folder.name(photo) not in bad)
    example = _example(folder, bad, range(len(folder.labels)))
    left = replace(folder, photos=good)
    if folder.seed is not None:
        left = _drawn(left, folder.seed, example)
    elif folder.judging:
        left = _keeping(left)
    _require_every_class(left, example)
    return left


def _drawn(folder: PhotoFolder, seed: int, example: Mapping[int, str]) -> PhotoFolder:
    _require_two_units(folder, example)
    targets = [photo.target for photo in folder.photos]
    units = [_unit(photo) for photo in folder.photos]
    # A class that is one photo and its copies can be trained on all the same; the sheet says so.
    several = Counter(target for _, target in set(zip(units, targets, strict=True)))
    units = [
        unit if several[photo.target] > 1 else f"path {folder.name(photo)}"
        for unit, photo in zip(units, folder.photos, strict=True)
    ]
    drawn = splits.draw(units, targets, seed)
    members = [replace(photo, split=s) for photo, s in zip(folder.photos, drawn, strict=True)]
    return replace(folder, photos=_sorted(members))


def _keeping(folder: PhotoFolder) -> PhotoFolder:
    """Return a folder whose validation photos are cut in two: val, and test for judging."""
    members = [photo for photo in folder.photos if photo.split != "train"]
    units, targets = [_unit(photo) for photo in members], [photo.target for photo in members]
    kept = splits.kept_for_judging(units, targets)
    cut = [
        replace(photo, split="test" if judges else "val")
        for photo, judges in zip(members, kept, strict=True)
    ]
    train = [photo for photo in folder.photos if photo.split == "train"]
    return replace(folder, photos=_sorted([*train, *cut]))


def _unit(photo: Photo) -> str:
    """Return what no split parts: a group; the copies of a file; or a photo that is not read."""
    # The kind comes first: a group may be named as a content hashes.
    if photo.group:
        return f"group {photo.group}"
    return f"content {photo.digest}" if photo.digest else f"path {photo.path}"


def _require_two_units(folder: PhotoFolder, example: Mapping[int, str]) -> None:
    """Refuse a class that cannot be split; `example` has a bad photo of it, with its reason."""
    members: dict[int, list[Photo]] = defaultdict(list)
    for photo in folder.photos:
        members[photo.target].append(photo)
    for target, label in enumerate(folder.labels):
        photos_of, groups = members[target], {photo.group for photo in members[target]}
        if len(photos_of) > 1 and (groups == {""} or len(groups) > 1):
            continue
        if len(photos_of) > 1:
            raise DataError(
                f"the {len(photos_of)} photos of class {label!r} are one group"
                f" ({groups.pop()!r}), and two are needed, one to train and one to validate; add"
                " photos of others, or move the class away"
            )
        readable = "readable " if example else ""
        named = f"one {readable}photo ({photos_of[0].path.name})" if photos_of else "no photo"
        raise DataError(
            f"class {label!r} has {named}; two are needed, one to train and one to"
            f" validate{example.get(target, '')}; add photos, or move the class away"
        )


def _sorted(members: Sequence[Photo]) -> tuple[Photo, ...]:
    return tuple(
        sorted(
            members,
            key=lambda photo: (_ORDER.index(photo.split), photo.target, photo.path.parts),
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
