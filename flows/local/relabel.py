"""Corrected answers into the data set: photos move to the class that a person says they are.

Each is moved or copied in one step, and written down after it, so a run that was cut off is given
again and goes on. What a correction would break (a photo in two splits, a class that nobody meant)
is refused before anything is moved.

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
    """One photo's way into its class."""

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
    """Return what is to be done; a photo that already lies where it should needs nothing.

    Photos are named as the data set names them (`train/egg/1.jpg`), or by any path. Those of the
    data set stay in their split; others are added to train.

    Raises:
        UserError: A photo is not there or no picture, has two labels, lies in another split
            already, or its class is not known; the message lists what is wrong.
    """
    from service.pixels.preprocessing import ImageError, load_square
    from training.data.dataset import SPLITS

    root = data.resolve()
    splits = [name for name in SPLITS if (root / name).is_dir()]
    folders = _classes(root, splits)
    known = {label for _, label in folders}
    wrong: list[str] = []
    moves: list[Move] = []
    said: dict[Path, str] = {}
    contents = _contents(root, splits)
    for name, label in corrections:
        inside = Path(os.path.normpath(root / name))
        source = inside if inside.is_file() else Path(name).resolve()
        if label not in known and not new_classes:
            wrong.append(f"{name}: no class {label!r} (--new-classes makes it)")
            continue
        if label in (".", "..") or "/" in label or label.startswith("."):
            wrong.append(f"{name}: {label!r} cannot be the name of a folder")
            continue
        if said.setdefault(source, label) != label:
            wrong.append(f"{name}: it is given two labels, {said[source]!r} and {label!r}")
            continue
        mine = source.is_relative_to(root)
        if not source.is_file():
            if not _done(root, splits, name, label):
                wrong.append(f"{name}: there is no such photo, in {data} or outside it")
            continue
        split = source.relative_to(root).parts[0] if mine and splits else ""
        if splits and not mine:
            split = "train"
        try:
            load_square(source.read_bytes(), 8)
        except ImageError as error:
            wrong.append(f"{name}: {error}")
            continue
        digest = _digest(source)
        others = [path for path in contents.get(digest, ()) if path != source]
        if not mine and others:
            if all(_label(path) == label for path in others):
                continue  # it was added before
            wrong.append(f"{name}: it is in the data set already, as {others[0]}; correct that one")
            continue
        folder = folders.get((split, label), root / split / label)
        target = folder / (source.name if mine else f"{digest[:16]}{source.suffix.lower()}")
        if target == source:
            continue
        if target.exists():
            target = folder / f"{source.stem}-{digest[:8]}{source.suffix}"
        moves.append(
            Move(source=source, target=target, label=label, before=_label(source) if mine else "")
        )
    if wrong:
        more = f" and {len(wrong) - 10} more" if len(wrong) > 10 else ""
        raise UserError("nothing was moved: " + "; ".join(wrong[:10]) + more)
    return moves


def apply(moves: Sequence[Move], data: Path) -> None:
    """Move photos of the data set, copy others in, and write each down.

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
    """Return (split, label) → folder, however a Mac has spelt its name."""
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
    """Return whether a photo of the data set was moved to its class before."""
    try:
        lines = (root / HISTORY).read_text("utf-8").splitlines()
    except FileNotFoundError:
        lines = []
    told = [json.loads(line) for line in lines if line]
    if any(line["from"] == name and line["label"] == label for line in told):
        return True
    # Moved, and killed before it was written down.
    parts = Path(name).parts
    place = root.joinpath(*(parts[:1] if splits else ()), label, parts[-1])
    return place.is_file()


def _label(path: Path) -> str:
    return _nfc(path.parent.name)


def _nfc(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
