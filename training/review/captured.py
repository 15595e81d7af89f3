"""Captured photos: what the service kept of its callers' photos, what would teach most first.

PLACE/MODEL/HASH.json ─► worth of each answer ─► the first 10,000 ─► copies kept down ─► Captured

worth = (1 - margin) · √(photos of the rarest class / photos of this class) / place among its copies

The margin is that of the two likeliest classes (Joshi et al. 2009, 'best versus second best'); what
a caller reported as wrong has none. Rare classes come first, since uncertainty alone asks for more
of what there is plenty of (Bengar et al. 2021, arXiv 2110.04543). The second copy of a picture is
worth half of it, the third a third: a batch of look-alikes teaches what one of them does.
"""

import hashlib
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from photo_folder.folder import scan_folder
from photo_folder.names import kind_of
from photo_folder.reading import content
from storage import Storage, bucket_url, storage_of
from terminal import Progress, no_progress
from training.data import decoding
from training.datasheet import duplicates
from training.datasheet.looks import Look, look, small
from training.errors import DataError
from training.files import replacing
from training.review.photos import Kind
from training.review.suspect import SHOWN, Suspect

MOST = 10_000
"""As many as the pages hold; the least worth are left for the next time."""

_READERS = 16
_AT_ONCE = 512
_REASONS: dict[str, Kind] = {"unsure": "unsure", "random": "random", "mistake": "mistake"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Captured:
    """What was captured, and is in no class yet."""

    data: Path
    place: str
    suspects: list[Suspect]
    """Those that would teach most first; `label` is what the service answered."""
    classes: tuple[str, ...]
    """Of the data."""
    known: int
    """Captured photos that the data has already."""
    unread: int
    """Photos that cannot be read, or without a sound answer beside them."""
    left: int
    """Photos beyond `MOST`."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as `review.json` holds them."""
        return {**asdict(self), "data": str(self.data), "pairs": []}


@dataclass(frozen=True, slots=True)
class _Kept:
    """A captured photo, as its answer tells it."""

    name: str
    """In the place."""
    answer: list[tuple[str, float]]
    reason: Kind
    reported: str
    """What a caller says that it is."""
    worth: float = 0.0


def captured(
    data: Path, place: Path, folder: Path, *, progress: Progress = no_progress
) -> Captured:  # fmt: skip
    """Return what the service captured, the photos that would teach most first.

    Args:
        data: The folder of photos that they may join.
        place: Where the service keeps them; a folder, or `s3://…`.
        folder: Where photos of a bucket are copied to.
        progress: Told of the answers that are read, and of the photos that are looked at.

    Raises:
        DataError: Nothing was captured there.
        FolderError: The data is no folder of photos.
        StorageError: The place cannot be read.
    """
    scanned = scan_folder(data)
    counts = Counter(photo.label for photo in scanned.photos)
    sizes: dict[int, list[Path]] = defaultdict(list)
    for photo in scanned.photos:
        sizes[photo.num_bytes].append(data / photo.name)
    storage = storage_of(place)
    there = storage.names()
    answers = {name.rpartition(".")[0]: name for name in there if name.endswith(".json")}
    photos = [name for name in there if _is_photo(PurePosixPath(name))]
    if not photos:
        raise DataError(
            f"{storage.url} has no photos; hansang serve --capture {storage.url} keeps some there"
        )
    told, unread = [], 0
    for start in range(0, len(photos), _AT_ONCE):
        batch = photos[start : start + _AT_ONCE]
        kept = _read(storage, [(name, answers.get(name.rpartition(".")[0], "")) for name in batch])
        told += [replace(one, worth=_worth(one, counts)) for one in kept]
        unread += len(batch) - len(kept)
        progress(len(told) + unread, len(photos), "reading")
    told.sort(key=lambda one: (-one.worth, one.name))
    first = told[:MOST]
    local = bucket_url(place) is None
    paths = [_path(storage, one.name, place if local else folder / "photos") for one in first]
    looks = _looks(paths, progress)
    new = [
        (one, path, seen)
        for one, path, seen in zip(first, paths, looks, strict=True)
        if isinstance(seen, Look) and not _is_known(seen, sizes)
    ]
    bad = sum(not isinstance(seen, Look) for seen in looks)
    return Captured(
        data=data,
        place=storage.url,
        suspects=_suspects(new),
        classes=tuple(sorted(counts)),
        known=len(first) - len(new) - bad,
        unread=unread + bad,
        left=len(told) - len(first),
    )


def _is_photo(name: PurePosixPath) -> bool:
    # A bucket may hold any name; one that leads out of a folder is not the service's.
    return kind_of(name.name) is None and ".." not in name.parts and not name.is_absolute()


def _read(storage: Storage, names: Sequence[tuple[str, str]]) -> list[_Kept]:
    """Return what is told of photos, by (name, name of the answer); not of those without one."""
    with ThreadPoolExecutor(_READERS, "captured") as pool:
        texts = list(pool.map(lambda pair: storage.read(pair[1]) if pair[1] else None, names))
    found = [_parsed(name, text) for (name, _), text in zip(names, texts, strict=True) if text]
    return [one for one in found if one is not None]


def _parsed(name: str, text: bytes) -> _Kept | None:
    """Return what stands beside a photo; None where that is no answer of the service."""
    try:
        about: dict[str, Any] = json.loads(text)
        answer = [(str(each["label"]), float(each["probability"])) for each in about["classes"]]
        reason = _REASONS[about["reason"]]
        reported = str(about["label"])
    except (ValueError, KeyError, TypeError):
        return None
    if not answer or not all(0 <= share <= 1 for _, share in answer):
        return None
    return _Kept(name, answer[:SHOWN], reason, reported)


def _worth(one: _Kept, counts: Counter[str]) -> float:
    """Return what a photo would teach, 0 to 1, but for its copies."""
    shares = sorted((share for _, share in one.answer), reverse=True)
    margin = shares[0] - (shares[1] if len(shares) > 1 else 0)
    label = one.answer[0][0]
    if one.reason == "mistake":
        margin, label = 0.0, one.reported or label
    # A class that the data does not have yet is as rare as can be.
    photos = counts.get(label, 0)
    return (1 - margin) * (math.sqrt(min(counts.values()) / photos) if photos else 1.0)


def _path(storage: Storage, name: str, folder: Path) -> Path:
    """Return where a photo lies, once it lies in a folder."""
    path = (folder / name).absolute()
    if not path.exists() and (data := storage.read(name)) is not None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with replacing(path) as temporary:
            temporary.write_bytes(data)
    return path


def _looks(paths: Sequence[Path], progress: Progress) -> list[Look | str]:
    found = []
    with decoding.workers(len(paths)) as pool:
        for seen in pool.map(look, paths, chunksize=decoding.AT_ONCE):
            found.append(seen)
            progress(len(found), len(paths), "looking")
    return found


def _is_known(seen: Look, sizes: dict[int, list[Path]]) -> bool:
    """Return whether the data has a photo of the same bytes."""
    return any(
        hashlib.sha256(content(str(path))).hexdigest() == seen.digest
        for path in sizes.get(seen.num_bytes, ())
    )


def _suspects(kept: Iterable[tuple[_Kept, Path, Look]]) -> list[Suspect]:
    """Return photos, by their worth, as what is to be decided."""
    listed = list(kept)
    groups = duplicates.find(
        [seen.digest for _, _, seen in listed], [seen.hash for _, _, seen in listed],
        lambda row: small(listed[row][1]),
    )  # fmt: skip
    copies = {row: group.members for group in groups for row in group.members}
    found = []
    for row, (one, path, _) in enumerate(listed):
        alike = copies.get(row, (row,))
        notes = [f"A caller reported it as {one.reported}." if one.reported else ""]
        if one.reason == "mistake" and not one.reported:
            notes.append("A caller reported the answer as wrong.")
        if len(alike) > 1:
            notes.append(f"One of {len(alike)} photos of one picture.")
        label = one.answer[0][0]
        found.append(
            Suspect(
                photo=str(path), label=label, suggested=one.reported or label,
                score=round(one.worth / (alike.index(row) + 1), 6), kind=one.reason, split="",
                likeliest=one.answer,
                neighbours=[str(listed[other][1]) for other in alike if other != row][:SHOWN],
                xy=None, group=None, note=" ".join(filter(None, notes)),
            )
        )  # fmt: skip
    return sorted(found, key=lambda one: (-one.score, one.photo))
