"""Moving photos from one class to another, each in one step."""

import errno
import hashlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from photo_folder.names import kind_of
from photo_folder.reading import content, reason
from terminal import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class Move:
    """One photo's way into its class."""

    source: Path
    target: Path
    label: str
    before: str
    """The label that it stood under; empty for a photo from outside the data set."""


def fault_of(source: Path) -> str:
    """Return why a file cannot be a photo of the data set; empty if it can."""
    from service.pixels.preprocessing import ImageError, load_square

    if kind_of(source.name) is not None:
        return "no name of a photo; rename it, for example to .jpg"
    try:
        load_square(content(str(source)), 8)
    except ImageError as error:
        return str(error)
    except OSError as error:
        return f"cannot be read: {reason(error)}"
    return ""


def require_writable(moves: Sequence[Move], root: Path) -> None:
    """Raise a UserError unless every folder that a move changes can be written."""
    needed = {root, *(move.source.parent for move in moves if move.before)}
    for folder in {move.target.parent for move in moves}:
        while not folder.exists():
            folder = folder.parent
        needed.add(folder)
    for folder in sorted(needed if moves else ()):
        if not os.access(folder, os.W_OK | os.X_OK):
            raise UserError(f"nothing was moved: {folder} cannot be written by this user")


def make(move: Move) -> None:
    """Move a photo, or copy one that comes from outside the data set."""
    from storage import sync
    from training.files import replacing

    move.target.parent.mkdir(parents=True, exist_ok=True)
    if move.before:
        try:
            move.source.replace(move.target)
            sync(move.target.parent)
            return
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
    # From outside, or behind a link to another disk.
    with replacing(move.target) as temporary:
        shutil.copyfile(move.source, temporary)
    if move.before:
        move.source.unlink()


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a photo's bytes, as hex."""
    return hashlib.sha256(content(str(path))).hexdigest()
