"""What the service needs of files: whether they changed, what is in them, and writing for good."""

import hashlib
from pathlib import Path

from storage import replacing, sync


def file_state(path: Path) -> object:
    """Return what is equal as long as a file that is only ever replaced is the same one."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return (stat.st_mtime_ns, stat.st_ino, stat.st_size)


def sha256(path: Path) -> str:
    """Return the hash of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def replace(path: Path, text: str) -> None:
    """Replace the content of a file at once; a kill leaves the old one or the new one."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write(path: Path, text: str) -> None:
    """Write a file that nobody reads yet, and force it to the disk."""
    path.write_text(text, encoding="utf-8")
    sync(path)
