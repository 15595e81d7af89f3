"""The dataset cache: every photo decoded once, by the function that serves, into one array a split.

<folder>-<S>-<key>/manifest.json      labels, files, their hashes, targets, what was left out
<folder>-<S>-<key>/<split>.npy        uint8 [N, C, C, 3], C = resize_size(S), memory-mapped
<folder>-<S>-<key>/crops.npy          uint8 [N, P, P, 3], P = crops_side(S), of train

`training/data/prepare.py` builds it. Shapes: N photos, C side of the cached square, P side of
the square that crops are cut from.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.pixels.preprocessing import PREPROCESSING, resize_size
from training.config import AugmentConfig
from training.errors import DataError

FORMAT = 1

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""What pixels from 0 to 1 are normalised by, inside the model: ImageNet's channel means and
deviations, which published weights expect."""

CROPS = "crops"
"""Name of the array of larger squares."""
_CROPS_SCALE = 1.25
_NEEDED = ("preprocessing", "labels", "image_size", "dataset_hash", "bad_files", "splits")


@dataclass(frozen=True, slots=True)
class Split:
    """The photos of one split."""

    images: NDArray[np.uint8]
    """[N, C, C, 3], memory-mapped."""
    targets: NDArray[np.int64]
    """[N], positions in the labels."""
    files: tuple[str, ...]
    """[N], paths below the folder of photos."""
    hashes: tuple[str, ...] = ()
    """[N], SHA-256 of the files; empty in a cache made before they were written down."""
    groups: tuple[str, ...] = ()
    """[N], what a photo shares with others, "" for one that stands alone; empty without groups."""
    crops: NDArray[np.uint8] | None = None
    """[N, P, P, 3], larger squares of train; None elsewhere, and in a cache from before them."""

    def to_learn_from(self, augment: AugmentConfig) -> "Split":
        """Return it with the squares that steps of training are given as its images."""
        sharp = augment.sharp_crops and augment.crop_area < 1
        if self.crops is None or not sharp:
            return self
        return replace(self, images=self.crops, crops=None)


@dataclass(frozen=True, slots=True)
class DatasetCache:
    """An opened cache."""

    path: Path
    labels: tuple[str, ...]
    image_size: int
    """Side of the square that the model sees; the cached squares are `resize_size` of it."""
    dataset_hash: str
    """SHA-256 over (split, label, SHA-256 of the file) of every photo, sorted."""
    bad_files: dict[str, str]
    """Path → why it was left out."""
    splits: dict[str, Split]
    root: Path | None = None
    """The folder of photos, where it lay when it was last prepared."""

    def with_groups(self, groups: Mapping[str, str]) -> "DatasetCache":
        """Return it with the group of each photo, by its path below the folder, and no others.

        Where splits are given, groups change no pixel and no split: caches are named without them.
        """
        splits = {
            name: replace(split, groups=tuple(groups.get(f, "") for f in split.files))
            if groups
            else replace(split, groups=())
            for name, split in self.splits.items()
        }
        return replace(self, splits=splits)

    @classmethod
    def open(cls, path: Path) -> "DatasetCache":
        """Open a cache that `prepare` built.

        Raises:
            DataError: It is not there, it is damaged, or its pixels are made by another rule.
        """
        manifest = manifest_of(path)
        if manifest is None:
            raise DataError(f"{path} is no dataset cache; build it with: hansang prepare DATA")
        if missing := [name for name in _NEEDED if name not in manifest]:
            raise DataError(f"{path}/manifest.json is damaged (no {missing[0]}); remove {path}")
        if manifest["preprocessing"] != PREPROCESSING:
            raise DataError(
                f"{path} has pixels made by {manifest['preprocessing']!r}, and this version makes"
                f" them by {PREPROCESSING!r}: prepare the photos and train on them again"
            )
        splits = {}
        for name, listed in manifest["splits"].items():
            images = _array(path, name, len(listed["files"]))
            targets = np.array(listed["targets"], dtype=np.int64)
            splits[name] = Split(
                images, targets, tuple(listed["files"]), tuple(listed.get("hashes", ())),
                tuple(listed.get("groups", ())),
            )  # fmt: skip
        if manifest.get(CROPS):
            train = splits["train"]
            splits["train"] = replace(train, crops=_array(path, CROPS, len(train.files)))
        return cls(
            path=path,
            labels=tuple(manifest["labels"]),
            image_size=manifest["image_size"],
            dataset_hash=manifest["dataset_hash"],
            bad_files=manifest["bad_files"],
            splits=splits,
            root=Path(manifest["root"]) if "root" in manifest else None,
        )


def crops_side(image_size: int) -> int:
    """Return the side of the squares that crops are cut from, in pixels.

    A crop of a third of the area is enlarged to the model's square, and is blurred by it; what is
    validated is not. Larger squares hold more of the photo than that crop can lose.
    """
    return resize_size(round(image_size * _CROPS_SCALE))


def _array(path: Path, name: str, num_photos: int) -> NDArray[np.uint8]:
    """Map an array of a cache into memory.

    Raises:
        DataError: It is missing, damaged, or has another number of photos.
    """
    try:
        images: NDArray[np.uint8] = np.load(path / f"{name}.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path / name}.npy is damaged ({error}); remove {path}") from error
    if len(images) != num_photos:
        raise DataError(f"{path / name}.npy is damaged; remove {path} and prepare again")
    return images


def manifest_of(path: Path) -> dict[str, Any] | None:
    """Return what a cache says of itself; None if there is none, or it is of another format.

    Raises:
        DataError: It is damaged.
    """
    try:
        manifest: dict[str, Any] = json.loads((path / "manifest.json").read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DataError(f"{path}/manifest.json cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{path}/manifest.json is damaged ({error}); remove {path}") from error
    if not isinstance(manifest, dict):
        raise DataError(f"{path}/manifest.json is damaged (no table); remove {path}")
    return manifest if manifest.get("format") == FORMAT else None
