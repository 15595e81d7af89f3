"""Files of the service: noticing changes, hashing, and writing that survives a crash."""

import fcntl
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storage import replacing, sync


def file_state(path: Path) -> object:
    """Return a value that changes when the file is replaced; None if there is none."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return (stat.st_mtime_ns, stat.st_ino, stat.st_size)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file, which the system releases if the process is killed."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


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
