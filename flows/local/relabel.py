"""Corrected answers into the data set: photos move to the class that a person says they are.

Each is moved or copied in one step, and written down after it, so a run that was cut off is given
again and goes on. What a correction would break (a photo in two splits, a class that nobody meant)
is refused before anything is moved. `relabel_history.py` moves, and takes moves back.
"""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flows.local.photo_moves import Move, digest_of, fault_of
from flows.local.relabel_history import DROPPED, told
from flows.local.relabel_history import apply as apply
from photo_folder.errors import FolderError
from photo_folder.folder import scan_folder
from photo_folder.found import Found
from photo_folder.names import passed_over, printable
from photo_folder.tables import path_in, read_table
from terminal import UserError, say

DROP = "(drop)"
"""Instead of a label: the photo shows no class, and moves aside. So does `drop`, unless a class has
that name."""
_COLUMNS = {
    "photo": ("photo", "file", "path", "filename", "image"),
    "label": ("label", "corrected", "class"),
}


def read(path: Path) -> list[tuple[str, str]]:
    """Read (photo, label) from a table with these columns; others are left alone.

    Raises:
        UserError: It cannot be read, lacks a column, or a row lacks a value.
    """
    table = read_table(path, _COLUMNS, ["photo", "label"])
    if table.encoding != "UTF-8":
        say(f"{path} is read as {table.encoding}; if labels look wrong, save it as 'CSV UTF-8'")
    found = []
    for number, row in table.rows:
        if not row["photo"].strip() or not row["label"].strip():
            raise UserError(f"{path}, line {number}: photo or label is empty")
        found.append((row["photo"], unicodedata.normalize("NFC", row["label"])))
    return found


def plan(
    corrections: Sequence[tuple[str, str]], data: Path, *, new_classes: bool = False
) -> list[Move]:
    """Return what is to be done; a photo that already lies where it should needs nothing.

    Photos are named as the data set names them (`train/egg/1.jpg`), or by any path. Those of the
    data set stay in their split; others are added to train. One whose label is `DROP` moves aside.

    Raises:
        UserError: A photo is not there or no picture, has two labels, lies in another split
            already, or its class is not known; the message lists what is wrong.
    """
    there = _DataSet.of(data)
    wrong: list[str] = []
    moves: list[Move] = []
    said: dict[str, str] = {}
    for given, wanted in corrections:
        label = there.label(wanted)
        name = printable(given)
        dropped = label not in there.labels and label in (DROP, "drop")
        label = DROP if dropped else label
        if label not in there.labels and not new_classes and not dropped:
            wrong.append(f"{name}: no class {label!r} (--new-classes makes it)")
            continue
        if label in (".", "..") or "/" in label or passed_over(label):
            wrong.append(f"{name}: {label!r} cannot be the name of a folder")
            continue
        source, inside = there.find(given)
        if said.setdefault(str(source), label) != label:
            wrong.append(f"{name}: it is given two labels, {said[str(source)]!r} and {label!r}")
            continue
        if not source.is_file():
            if not there.was_moved(given, inside, label):
                wrong.append(f"{name}: there is no such photo, in {data} or outside it")
            continue
        if dropped and not inside:
            wrong.append(f"{name}: it is not in {data}, so it cannot be dropped from there")
            continue
        if not dropped and (fault := fault_of(source)):
            wrong.append(f"{name}: {fault}")
            continue
        try:
            move = there.move(source, inside, label)
        except UserError as error:
            wrong.append(f"{name}: {error}")
            continue
        if move is not None:
            moves.append(move)
    if wrong:
        more = f" and {len(wrong) - 10} more" if len(wrong) > 10 else ""
        raise UserError("nothing was moved: " + "; ".join(wrong[:10]) + more)
    return moves


@dataclass(kw_only=True, slots=True)
class _DataSet:
    """The photos that are there, and where those of each class lie."""

    root: Path
    photos: dict[str, Found]
    homes: dict[str, str]
    """Split, or "" where there are none → the folder that holds its class folders."""
    folders: dict[tuple[str, str], Path]
    """(Split, label) → its folder, however a Mac has spelt its name."""
    labels: set[str] = field(default_factory=set)
    by_size: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def of(cls, data: Path) -> "_DataSet":
        try:
            found = scan_folder(data)
        except FolderError as error:
            raise UserError(f"nothing was moved: {error}") from error
        root = data.absolute()
        folders = {}
        for split, home in found.homes.items():
            for folder in (root / home).iterdir():
                # One without photos is a class as well: its last one may have been moved.
                if not passed_over(folder.name) and folder.is_dir():
                    folders[split, unicodedata.normalize("NFC", folder.name)] = folder
        there = cls(
            root=root,
            photos={photo.name: photo for photo in found.photos},
            homes=found.homes,
            folders=folders,
            labels={label for _, label in folders},
        )
        for photo in found.photos:
            there.by_size[photo.num_bytes].append(photo.name)
        return there

    def label(self, wanted: str) -> str:
        """Return the class that is meant; spaces around a name count where classes have them."""
        return wanted if wanted in self.labels else wanted.strip()

    def find(self, given: str) -> tuple[Path, str]:
        """Return where a photo lies, and its name in the data set; empty if it is outside."""
        inside = path_in(self.root, given)
        if (self.root / inside).is_file():
            source = Path(os.path.normpath(self.root / inside))
        else:
            source = Path(path_in(Path(), given)).absolute()
            if not source.is_relative_to(self.root):
                # The folder may be named by a link.
                real = source.resolve()
                if real.is_relative_to(self.root.resolve()):
                    source = self.root / real.relative_to(self.root.resolve())
        if source.is_relative_to(self.root):
            return source, source.relative_to(self.root).as_posix()
        return source, ""

    def move(self, source: Path, inside: str, label: str) -> Move | None:
        """Return what brings a photo into its class; None if it lies there.

        Raises:
            UserError: Its copy is in the data set already, under another label.
        """
        photo = self.photos.get(inside)
        if photo is not None:
            target = self._place(inside, label)
            if target is None or target == source:
                return None
            if target.exists():
                target = target.with_stem(f"{target.stem}-{digest_of(source)[:8]}")
            return Move(source=source, target=target, label=label, before=photo.label)
        digest = digest_of(source)
        others = [
            self.photos[name]
            for name in self.by_size[source.stat().st_size]
            if digest_of(self.root / name) == digest
        ]
        if others and all(other.label == label for other in others):
            return None  # it was added before
        if others:
            raise UserError(
                f"it is in the data set already, as {printable(others[0].name)}; correct that one"
            )
        split = "train" if "train" in self.homes else next(iter(self.homes))
        folder = self._folder(split, label)
        target = folder / f"{digest[:16]}{source.suffix.lower()}"
        return Move(source=source, target=target, label=label, before="")

    def was_moved(self, given: str, inside: str, label: str) -> bool:
        """Return whether a photo of the data set was moved to its class before."""
        names = {given, inside, path_in(self.root, given)}
        if any(line["from"] in names and line["label"] == label for line in told(self.root)):
            return True
        # Moved, and killed before it was written down.
        place = self._place(inside or path_in(self.root, given), label)
        return place is not None and place.is_file()

    def _place(self, name: str, label: str) -> Path | None:
        """Return where a photo of the data set would lie in a class; None if in no class now."""
        for split, home in self.homes.items():
            below = name.removeprefix(f"{home}/") if home else name
            if home and below == name:
                continue
            _, _, rest = below.partition("/")
            if label == DROP and DROP not in self.labels:
                return self.root / DROPPED / name
            return self._folder(split, label) / rest if rest else None
        return None

    def _folder(self, split: str, label: str) -> Path:
        return self.folders.get((split, label), self.root / self.homes[split] / label)
