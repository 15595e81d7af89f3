"""A folder of photos → labels, splits and files. Reads names only; the cache reads the photos."""

import os
import unicodedata
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.errors import DataError

SPLITS = ("train", "val", "test")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_SHARES = {"val": 0.1, "test": 0.1}


@dataclass(frozen=True, slots=True)
class Photo:
    """One file, the split it belongs to, and its class as a position in the labels."""

    path: Path
    split: str
    target: int


@dataclass(frozen=True, slots=True)
class PhotoFolder:
    """What `scan` found."""

    root: Path
    labels: tuple[str, ...]
    """Class names in Unicode NFC, sorted."""
    photos: tuple[Photo, ...]
    """Sorted by split and path."""
    num_ignored: int
    """Files that are no photos by their name."""

    def counts(self) -> dict[str, dict[str, int]]:
        """Return photos per split and class."""
        counted = Counter((photo.split, photo.target) for photo in self.photos)
        return {
            split: {label: counted[split, target] for target, label in enumerate(self.labels)}
            for split in SPLITS
            if any(found == split for found, _ in counted)
        }


def scan(root: Path, *, seed: int = 0) -> PhotoFolder:
    """Find the photos of `train/ val/ (test/)` of class folders, or of class folders alone.

    Class folders alone are split 80/10/10 within each class, by `seed`; a class of two photos has
    one in train and one in val.

    Raises:
        DataError: No photos, an empty class, a class missing from train or val, two names equal
            after NFC, or too few photos to split.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; give a folder of photos")
    given = [split for split in SPLITS if (root / split).is_dir()]
    if given and not {"train", "val"} <= set(given):
        missing = "val" if "train" in given else "train"
        raise DataError(
            f"{root} has {' and '.join(given)} but no {missing} folder; add it, or put the class"
            " folders directly into the folder and they are split for you"
        )
    files: dict[str, dict[str, list[Path]]] = {}
    num_ignored = 0
    for split in given or [""]:
        files[split], ignored = _classes(root / split)
        num_ignored += ignored
    labels = tuple(sorted({label for classes in files.values() for label in classes}))
    if len(labels) < 2:
        raise DataError(
            f"{root} has {len(labels)} class folders with photos ({', '.join(SUFFIXES)});"
            " two or more are needed"
        )
    if not given:
        files = _split(files[""], seed)
    for split in ("train", "val"):
        for label in labels:
            if label not in files[split]:
                raise DataError(f"class {label!r} is missing from {root / split}")
    photos = tuple(
        Photo(path, split, labels.index(label))
        for split in SPLITS
        for label, paths in sorted(files.get(split, {}).items())
        for path in paths
    )
    return PhotoFolder(root, labels, photos, num_ignored)


def _classes(folder: Path) -> tuple[dict[str, list[Path]], int]:
    """Return the photos of each class folder, by NFC name, and how many files were ignored."""
    classes: dict[str, list[Path]] = {}
    origin: dict[str, str] = {}
    num_ignored = 0
    for class_folder in sorted(folder.iterdir()):
        if class_folder.name.startswith(".") or not class_folder.is_dir():
            num_ignored += not class_folder.is_dir()
            continue
        # A Mac stores Hangul decomposed (NFD); every other system composes it.
        label = unicodedata.normalize("NFC", class_folder.name)
        inside = sorted(path for path in class_folder.iterdir() if path.is_file())
        for path in (class_folder, *inside):
            if not _is_unicode(path.name):
                raise DataError(
                    f"the name {os.fsencode(path.name)!r} in {folder} is not UTF-8 (a zip made with"
                    " another encoding?); rename it, for example with convmv"
                )
        if label in classes:
            raise DataError(
                f"{folder} has two folders named {label!r}: {origin[label]!r} and"
                f" {class_folder.name!r} differ only in Unicode form; merge them"
            )
        photos = [
            path
            for path in inside
            if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
        ]
        num_ignored += len(inside) - len(photos)
        if not photos:
            raise DataError(f"class folder {class_folder} has no photos; fill it or remove it")
        classes[label], origin[label] = photos, class_folder.name
    return classes, num_ignored


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _split(classes: dict[str, list[Path]], seed: int) -> dict[str, dict[str, list[Path]]]:
    files: dict[str, dict[str, list[Path]]] = defaultdict(dict)
    for index, (label, paths) in enumerate(sorted(classes.items())):
        if len(paths) < 2:
            raise DataError(
                f"class {label!r} has one photo; two are needed, one to train and one to validate"
            )
        order = np.random.Generator(np.random.Philox(key=[seed, index])).permutation(len(paths))
        start = 0
        for split, share in _SHARES.items():
            count = max(1, round(share * len(paths)))
            # Two photos are one to train and one to validate.
            if start + count >= len(paths):
                continue
            files[split][label] = sorted(paths[i] for i in order[start : start + count])
            start += count
        files["train"][label] = sorted(paths[i] for i in order[start:])
    return files
