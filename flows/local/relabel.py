"""Corrected answers become training data: photos move to the class that a person gave them.

    read (CSV) ─► plan (every row is checked) ─► apply (move, copy, record)

Each photo is moved or copied in one step and recorded after it. A run that was interrupted is
therefore repeated with the same command, and does the rest. Corrections that would put a photo into
two splits or make an unintended class are refused before anything is moved.

<data>/.relabels.jsonl    what was moved, from where, when; oldest first
"""

import csv
import hashlib
import json
import os
import shutil
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from terminal import UserError

HISTORY = ".relabels.jsonl"
_PHOTO, _LABEL = ("photo", "file"), ("label", "corrected")


@dataclass(frozen=True, kw_only=True, slots=True)
class Move:
    """One photo that moves, or is copied, into the folder of its class."""

    source: Path
    target: Path
    label: str
    before: str
    """The label that it stood under; empty for a photo from outside the data set."""


def read(path: Path) -> list[tuple[str, str]]:
    """Read (photo, label) from a CSV with these columns; others are left alone.

    Raises:
        UserError: It cannot be read, lacks a column, or a row lacks a value.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            names = rows.fieldnames or ()
            photo = next((name for name in _PHOTO if name in names), None)
            label = next((name for name in _LABEL if name in names), None)
            if photo is None or label is None:
                raise UserError(f"{path} needs the columns photo and label; it has {list(names)}")
            found = []
            for number, row in enumerate(rows, 2):
                if not row[photo] or not (row[label] or "").strip():
                    raise UserError(f"{path}, line {number}: photo or label is empty")
                found.append((row[photo], unicodedata.normalize("NFC", row[label].strip())))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    return found


def plan(
    corrections: Sequence[tuple[str, str]], data: Path, *, new_classes: bool = False
) -> list[Move]:
    """Return the moves that the corrections ask for; nothing is moved yet.

    Photos are named as the data set names them (`train/egg/1.jpg`), or by any path. Those of the
    data set stay in their split; others are added to train. A photo that already lies in its class
    needs no move.

    Raises:
        UserError: A photo is not there or no picture, has two labels, lies in another split
            already, or its class is not known; the message lists the first ten of them.
    """
    photos = _Photos(data)
    wrong: list[str] = []
    moves: list[Move] = []
    labels: dict[Path, str] = {}
    for name, label in corrections:
        try:
            move = _plan_one(photos, name, label, labels, new_classes=new_classes)
        except _WrongError as error:
            wrong.append(f"{name}: {error}")
        else:
            moves += [move] if move else []
    if wrong:
        more = f" and {len(wrong) - 10} more" if len(wrong) > 10 else ""
        raise UserError("nothing was moved: " + "; ".join(wrong[:10]) + more)
    return moves


class _WrongError(Exception):
    """A correction that cannot be done."""


class _Photos:
    """A folder of photos: its splits, its class folders, and its photos by their content."""

    def __init__(self, data: Path) -> None:
        from training.data.dataset import SPLITS

        self.data = data
        self.root = data.resolve()
        self.splits = [name for name in SPLITS if (self.root / name).is_dir()]
        self.folders = _classes(self.root, self.splits)
        self.labels = {label for _, label in self.folders}
        self.contents = _contents(self.root, self.splits)


def _plan_one(
    photos: _Photos, name: str, label: str, labels: dict[Path, str], *, new_classes: bool
) -> Move | None:
    """Return the move of one correction; None if the photo lies where it should.

    `labels` holds the label that earlier corrections gave to each photo.
    """
    from service.pixels.preprocessing import ImageError, load_square

    root = photos.root
    inside = Path(os.path.normpath(root / name))
    source = inside if inside.is_file() else Path(name).resolve()
    if label not in photos.labels and not new_classes:
        raise _WrongError(f"no class {label!r} (--new-classes makes it)")
    if label in (".", "..") or "/" in label or label.startswith("."):
        raise _WrongError(f"{label!r} cannot be the name of a folder")
    if labels.setdefault(source, label) != label:
        raise _WrongError(f"it is given two labels, {labels[source]!r} and {label!r}")
    if not source.is_file():
        if _done(root, photos.splits, name, label):
            return None
        raise _WrongError(f"there is no such photo, in {photos.data} or outside it")
    try:
        load_square(source.read_bytes(), 8)
    except ImageError as error:
        raise _WrongError(str(error)) from error
    mine = source.is_relative_to(root)
    digest = _digest(source)
    others = [path for path in photos.contents.get(digest, ()) if path != source]
    if not mine and others:
        if all(_label(path) == label for path in others):
            return None  # it was added before
        raise _WrongError(f"it is in the data set already, as {others[0]}; correct that one")
    split = (source.relative_to(root).parts[0] if mine else "train") if photos.splits else ""
    folder = photos.folders.get((split, label), root / split / label)
    target = folder / (source.name if mine else f"{digest[:16]}{source.suffix.lower()}")
    if target == source:
        return None
    if target.exists():
        target = folder / f"{source.stem}-{digest[:8]}{source.suffix}"
    return Move(source=source, target=target, label=label, before=_label(source) if mine else "")


def apply(moves: Sequence[Move], data: Path) -> None:
    """Move photos of the data set, copy others in, and record each in `.relabels.jsonl`.

    Raises:
        UserError: The data set cannot be written to.
    """
    from storage import sync
    from training.files import replacing

    root = data.resolve()
    try:
        with (root / HISTORY).open("a", encoding="utf-8") as history:
            for move in moves:
                move.target.parent.mkdir(parents=True, exist_ok=True)
                if move.before:
                    move.source.replace(move.target)
                    sync(move.target.parent)
                else:
                    with replacing(move.target) as temporary:
                        shutil.copyfile(move.source, temporary)
                line = {
                    "time": datetime.now(UTC).isoformat(timespec="seconds"),
                    "from": str(move.source.relative_to(root) if move.before else move.source),
                    "to": str(move.target.relative_to(root)),
                    "before": move.before,
                    "label": move.label,
                }
                history.write(json.dumps(line, ensure_ascii=False) + "\n")
                history.flush()
            os.fsync(history.fileno())
    except OSError as error:
        raise UserError(f"cannot write to {data}: {error}; give the same command again") from error


def _classes(root: Path, splits: Sequence[str]) -> dict[tuple[str, str], Path]:
    """Return (split, label in NFC) → folder; a Mac writes folder names in NFD."""
    return {
        (split, _nfc(folder.name)): folder
        for split in splits or [""]
        for folder in (root / split).iterdir()
        if folder.is_dir() and not folder.name.startswith(".")
    }


def _contents(root: Path, splits: Sequence[str]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for folder in _classes(root, splits).values():
        for path in folder.iterdir():
            if path.is_file() and not path.name.startswith("."):
                found.setdefault(_digest(path), []).append(path)
    return found


def _done(root: Path, splits: Sequence[str], name: str, label: str) -> bool:
    """Return whether an earlier run moved this photo to this class."""
    try:
        lines = (root / HISTORY).read_text("utf-8").splitlines()
    except FileNotFoundError:
        lines = []
    moves = [json.loads(line) for line in lines if line]
    if any(move["from"] == name and move["label"] == label for move in moves):
        return True
    # A kill may have come between the move and its record.
    parts = Path(name).parts
    return root.joinpath(*(parts[:1] if splits else ()), label, parts[-1]).is_file()


def _label(path: Path) -> str:
    return _nfc(path.parent.name)


def _nfc(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
