"""Files of the service: noticing changes, hashing, and writing that survives a crash."""

import hashlib
from pathlib import Path

from storage import replacing, sync


def file_state(path: Path) -> object:
    """Return a value that changes when the file is replaced; None if there is none."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return (stat.st_mtime_ns, stat.st_ino, stat.st_size)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def replace(path: Path, text: str) -> None:
    """Replace a text file atomically: a kill leaves the old content or the new."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write(path: Path, text: str) -> None:
    """Write a new text file and force it to the disk, before anyone reads it."""
    path.write_text(text, encoding="utf-8")
    sync(path)
