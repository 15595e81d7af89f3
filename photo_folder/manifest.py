"""A table of photos instead of a folder: path, label, and if wanted split and group.

photos.csv    path,label,split,group           one photo a row; paths from where the table lies
photos.toml   [[photo]] path = … label = …     the same in TOML
"""

import os
import stat
import tomllib
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from photo_folder.errors import FolderError
from photo_folder.found import Found, Scanned, look_alike_notes, refused_name
from photo_folder.layout import SPLITS, split_of
from photo_folder.left_out import LeftOut
from photo_folder.names import Kind, printable
from photo_folder.reading import content, reason, retried
from photo_folder.tables import path_in, read_table

SUFFIXES = (".csv", ".tsv", ".txt", ".toml")
COLUMNS = {
    "path": (
        "path",
        "photo",
        "file",
        "filename",
        "file_name",
        "filepath",
        "image",
        "image_path",
        "filenames",
        "images",
    ),
    "label": ("label", "class", "category", "class_name", "labels", "cats"),
    "split": ("split", "set", "subset", "partition", "is_valid"),
    "group": ("group", "object", "shop", "session"),
}
"""What a column holds → the names it may have."""


def is_manifest(place: Path) -> bool:
    """Return whether this is a file that is read as a table of photos."""
    return place.suffix.lower() in SUFFIXES and place.is_file()


def scan_manifest(table: Path, *, labels: bool = True) -> Scanned:
    """Find the photos that a table names. A photo that is not there is left out by name.

    Args:
        table: The file.
        labels: Whether a label is needed; without, every photo has the label "".

    Raises:
        FolderError: It cannot be read, lacks a column, or none of its photos is there.
    """
    root = table.parent
    left_out, photos, refusal = LeftOut(), [], refused_name(str(table.resolve()), root)
    said: dict[str, tuple[int, str]] = {}
    for line, row in _rows(table, ["path", "label"] if labels else ["path"]):
        name, label = path_in(root, row["path"]), row.get("label", "")
        where = f"{table}, line {line}"
        if labels and not label.strip():
            left_out.add(name, Kind.UNLABELLED)
            continue
        before = said.setdefault(name, (line, label))
        if before != (line, label):
            left_out.add(name, Kind.REPEATED)
            if before[1] != label and not refusal:
                refusal = (
                    f"{where}: {name} is {label!r}, and in line {before[0]} {before[1]!r}; keep one"
                )
            continue
        about = _file(root, name, left_out)
        if about is None:
            continue
        split = split_of(row.get("split", "")) or ""
        if row.get("split", "").strip() and not split:
            refusal = refusal or (
                f"{where}: {row['split']!r} is no split; there are {', '.join(SPLITS)}"
            )
        refusal = refusal or refused_name(label, where) or refused_name(name, where)
        photos.append(Found(
            name, printable(unicodedata.normalize("NFC", label)), split, row.get("group", ""),
            about.st_size, about.st_mtime_ns,
        ))  # fmt: skip
    if not photos:
        missing, words = list(left_out.to_dict()["unreadable"]), ""
        if missing:
            words = (
                f": {left_out.count(Kind.UNREADABLE)} are missing, such as {missing[0]}; paths"
                f" begin at {root.resolve()}, and have their suffix"
            )
        raise FolderError(f"{table} names no photo that is there{words}")
    if not refusal and len({bool(photo.split) for photo in photos}) > 1:
        refusal = f"{table} gives a split for some photos only; give it for all of them, or none"
    photos.sort(key=lambda photo: photo.name.split("/"))
    return Scanned(
        root=root,
        title=table.resolve().stem,
        photos=tuple(photos),
        left_out=left_out,
        notes=tuple(look_alike_notes(sorted({photo.label for photo in photos}))),
        refusal=refusal,
    )


def _file(root: Path, name: str, left_out: LeftOut) -> os.stat_result | None:
    """Return what the system says of a file that can be read; else None, and it is left out."""
    try:
        about = retried((root / name).stat)
    except (OSError, ValueError) as error:
        why = reason(error) if isinstance(error, OSError) else str(error)
        left_out.add(name, Kind.UNREADABLE, why)
        return None
    if not stat.S_ISREG(about.st_mode):
        left_out.add(name, Kind.SPECIAL)
        return None
    return about


def _rows(table: Path, needed: list[str]) -> Iterator[tuple[int, dict[str, str]]]:
    if table.suffix.lower() != ".toml":
        yield from read_table(table, COLUMNS, needed).rows
        return
    try:
        found = tomllib.loads(content(str(table)).decode())
    except OSError as error:
        raise FolderError(f"cannot read {table}: {reason(error)}") from error
    except ValueError as error:
        raise FolderError(f"{table} is no TOML: {error}") from error
    rows: Any = found.get("photo", found.get("photos"))
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise FolderError(f"{table} needs a [[photo]] with path and label for each photo")
    for number, row in enumerate(rows, 1):
        if missing := [name for name in needed if not isinstance(row.get(name), str)]:
            raise FolderError(f"{table}, [[photo]] {number}: {missing[0]} is missing, or no text")
        yield number, {name: str(row[name]) for name in COLUMNS if name in row}
