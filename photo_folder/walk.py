"""Everything below a folder, in the order of its names, one folder's names in memory at a time."""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from photo_folder.names import Kind, kind_of, passed_over, suffix_of
from photo_folder.reading import reason, retried

Left = Callable[[str, Kind, str], object]
"""Is told what is left out: its path below the folder, why, and its suffix or the system's word."""

_ID = tuple[int, int]


class File(NamedTuple):
    """A photo by its name."""

    name: str
    """Its path below the folder, with `/`."""
    num_bytes: int
    mtime_ns: int


class _Folder(NamedTuple):
    name: str
    """Its path below the top with `/` at the end; empty for the top."""
    entries: Iterator[os.DirEntry[str]]
    way: frozenset[_ID]
    """This folder and all that it lies in, also above the top."""
    seen: set[_ID] | None
    """Folders that were looked through behind one link; None where no link led here."""


def walk(top: Path, left: Left) -> Iterator[File]:
    """Yield the photos below a folder, sorted by the parts of their paths.

    Links are followed, to files and folders, and no loop is: a folder is never looked for in
    itself, and behind a link each folder is looked through once. Sub-folders that cannot be read,
    and what vanishes meanwhile, is told to `left` and spares the rest.

    Raises:
        OSError: The top cannot be read.
    """
    stack = [_Folder("", iter(_entries(str(top), "", left)), _way_to(top), None)]
    while stack:
        folder = stack[-1]
        entry = next(folder.entries, None)
        if entry is None:
            stack.pop()
            continue
        name = folder.name + entry.name
        try:
            about = retried(entry.stat)
        except OSError as error:
            left(name, *_why(entry, error))
            continue
        if stat.S_ISDIR(about.st_mode):
            below = _entered(folder, entry, about, left)
            if below is not None:
                stack.append(below)
        elif not stat.S_ISREG(about.st_mode):
            left(name, Kind.SPECIAL, "")
        elif (kind := kind_of(entry.name)) is not None:
            left(name, kind, suffix_of(entry.name))
        else:
            yield File(name, about.st_size, about.st_mtime_ns)


def _entered(
    folder: _Folder, entry: os.DirEntry[str], about: os.stat_result, left: Left
) -> _Folder | None:
    """Return a sub-folder to look through; None if it is a loop or cannot be read."""
    name, here, seen = folder.name + entry.name, _id(about), folder.seen
    if entry.is_symlink() and seen is None:
        seen = set()
    if here in folder.way or (seen is not None and here in seen):
        left(name, Kind.LOOP, "")
        return None
    if seen is not None:
        seen.add(here)
    try:
        entries = _entries(entry.path, f"{name}/", left)
    except OSError as error:
        left(name, Kind.UNREADABLE, reason(error))
        return None
    if any(each.name == "pyvenv.cfg" for each in entries):
        left(name, Kind.JUNK, "")  # a virtual environment, whose packages bring pictures
        return None
    if not entries:
        left(name, Kind.EMPTY, "")
    return _Folder(f"{name}/", iter(entries), folder.way | {here}, seen)


def _entries(path: str, name: str, left: Left) -> list[os.DirEntry[str]]:
    """Return what is in a folder, sorted by name, without what is passed over."""

    def listed() -> list[os.DirEntry[str]]:
        with os.scandir(path) as found:
            return sorted(found, key=lambda entry: entry.name)

    kept = []
    for entry in retried(listed):
        kind = passed_over(entry.name)
        if kind is None:
            kept.append(entry)
        else:
            left(name + entry.name, kind, "")
    return kept


def _way_to(top: Path) -> frozenset[_ID]:
    """Return the top and the folders that it lies in."""
    real = Path(os.path.realpath(top))
    way = set()
    for folder in (real, *real.parents):
        with suppress(OSError):  # one without rights is no loop that could be walked
            way.add(_id(folder.stat()))
    return frozenset(way)


def _why(entry: os.DirEntry[str], error: OSError) -> tuple[Kind, str]:
    if error.errno == errno.ELOOP:
        return Kind.LOOP, ""
    if isinstance(error, FileNotFoundError) and entry.is_symlink():
        return Kind.BROKEN_LINK, ""
    return Kind.UNREADABLE, reason(error)


def _id(about: os.stat_result) -> _ID:
    return about.st_dev, about.st_ino
