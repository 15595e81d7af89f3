"""A look at a folder of photos before it is trained on: what is there, and what is wrong.

scan ─► every file read, hashed and decoded, as serving decodes ─► Sheet ─► JSON, or a PNG
"""

import hashlib
import math
import os
import unicodedata
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from service.preprocessing import ImageError, load_square
from terminal import Progress, no_progress
from training.dataset import SPLITS, SUFFIXES, Photo, PhotoFolder, scan
from training.errors import DataError
from training.files import replacing
from training.fonts import font, shorten

_UNSPLIT = "all"
_CHECK_SIDE = 32
_INK, _GREY, _RED, _PAPER, _EMPTY = "#1c1b1a", "#77736e", "#b3261e", "#ffffff", "#eeebe6"


@dataclass(frozen=True, slots=True)
class Sheet:
    """What `inspect` found."""

    folder: PhotoFolder
    bad_files: dict[str, str]
    """Path below the folder → why it cannot be decoded; training leaves it out."""
    duplicates: tuple[tuple[str, ...], ...]
    """Groups of paths: the same bytes in two or more splits."""
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

    def to_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return {
            "folder": str(self.folder.root),
            "labels": list(self.folder.labels),
            "counts": self.counts(),
            "bad_files": self.bad_files,
            "duplicates_across_splits": [list(group) for group in self.duplicates],
            "ignored_files": self.folder.num_ignored,
            "error": self.error,
        }


def inspect(data: Path, *, seed: int = 0, progress: Progress = no_progress) -> Sheet:
    """Read every photo of a folder, also of one that `scan` refuses: the sheet says why.

    Raises:
        DataError: There is no folder, or no photo in it.
    """
    folder, error = _scan_anyway(data, seed)
    bad_files: dict[str, str] = {}
    same: dict[str, list[Photo]] = defaultdict(list)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0)), "inspect") as pool:
        for done, (photo, (digest, reason)) in enumerate(
            zip(folder.photos, pool.map(_read, folder.photos), strict=True), start=1
        ):
            if reason is None:
                same[digest].append(photo)
            else:
                bad_files[_name(folder, photo)] = reason
            progress(done, len(folder.photos))
    duplicates = tuple(
        tuple(_name(folder, photo) for photo in photos)
        for photos in same.values()
        if len({photo.split for photo in photos}) > 1
    )
    return Sheet(folder, bad_files, duplicates, error)


def contact_sheet(sheet: Sheet, out: Path) -> None:
    """Draw one photo of each class, its label and its counts, in one PNG.

    The first readable photo stands for its class. Few classes make large tiles, a thousand small.
    """
    labels, counts = sheet.folder.labels, sheet.counts()
    columns = math.ceil(math.sqrt(len(labels)))
    side = max(96, min(240, 1600 // columns))
    gap, label_px, small_px = side // 10, max(13, side // 13), max(10, side // 18)
    header, cell_height = 4 * 36, side + 2 * label_px + 2 * small_px + gap
    # The header needs some room, however few the classes are.
    width = max(gap + columns * (side + gap), 640)
    height = header + math.ceil(len(labels) / columns) * cell_height + gap
    page = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(page)

    def write(x: int, y: int, text: str, size_px: int, colour: str, width_px: int) -> None:
        draw.text((x, y), shorten(text, size_px, width_px), font=font(size_px), fill=colour)

    totals = [f"{split} {sum(of.values()):,}" for split, of in counts.items()]
    title = f"{sheet.folder.root.resolve().name} · {len(labels)} classes"
    write(gap, 16, title, 28, _INK, width - 2 * gap)
    write(gap, 64, " · ".join(totals), 16, _GREY, width - 2 * gap)
    write(gap, 92, _problems(sheet), 16, _RED, width - 2 * gap)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0)), "inspect") as pool:
        pictures = pool.map(partial(_picture, side=side), _one_of_each(sheet))
        for index, (label, picture) in enumerate(zip(labels, pictures, strict=True)):
            x = gap + index % columns * (side + gap)
            y = header + index // columns * cell_height
            if picture is None:
                draw.rectangle((x, y, x + side - 1, y + side - 1), fill=_EMPTY)
                write(x + 8, y + side // 2, "no readable photo", small_px, _RED, side - 16)
            else:
                page.paste(picture, (x, y))
            write(x, y + side + 2, label, label_px, _INK, side)
            each = " · ".join(f"{split} {of[label]}" for split, of in counts.items())
            write(x, y + side + 2 + label_px * 3 // 2, each, small_px, _GREY, side)
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as temporary:
        page.save(temporary, "PNG")


def _scan_anyway(root: Path, seed: int) -> tuple[PhotoFolder, str | None]:
    """Return what `scan` returns; where it refuses, the photos there are, and its reason."""
    try:
        return scan(root, seed=seed), None
    except DataError as error:
        refusal = error
    given = [split for split in SPLITS if (root / split).is_dir()]
    found: list[tuple[Path, str, str]] = []
    num_ignored = 0
    for split in given or [_UNSPLIT]:
        for path in sorted((root / split if given else root).glob("[!.]*/*")):
            if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
                found.append((path, split, unicodedata.normalize("NFC", path.parent.name)))
            else:
                num_ignored += path.is_file()
    if not found:
        raise refusal
    labels = tuple(sorted({label for _, _, label in found}))
    photos = tuple(Photo(path, split, labels.index(label)) for path, split, label in found)
    return PhotoFolder(root, labels, photos, num_ignored), str(refusal)


def _read(photo: Photo) -> tuple[str, str | None]:
    """Return the SHA-256 of a file, and why it cannot be decoded if it cannot."""
    try:
        data = photo.path.read_bytes()
        load_square(data, _CHECK_SIDE)
    except ImageError as error:
        return "", str(error)
    except OSError as error:
        return "", error.strerror or str(error)
    return hashlib.sha256(data).hexdigest(), None


def _one_of_each(sheet: Sheet) -> list[Photo | None]:
    first: dict[int, Photo] = {}
    for photo in sheet.folder.photos:
        if photo.target not in first and _name(sheet.folder, photo) not in sheet.bad_files:
            first[photo.target] = photo
    return [first.get(target) for target in range(len(sheet.folder.labels))]


def _picture(photo: Photo | None, side: int) -> Image.Image | None:
    if photo is None:
        return None
    try:
        return Image.fromarray(load_square(photo.path.read_bytes(), side))
    except (ImageError, OSError):  # it changed since it was read
        return None


def _problems(sheet: Sheet) -> str:
    parts = []
    if sheet.error:
        parts.append(sheet.error)
    if sheet.bad_files:
        parts.append(f"{len(sheet.bad_files)} unreadable")
    if sheet.duplicates:
        parts.append(f"{len(sheet.duplicates)} in more than one split")
    return " · ".join(parts)


def _name(folder: PhotoFolder, photo: Photo) -> str:
    return photo.path.relative_to(folder.root).as_posix()
