"""What the service needs to know of files: whether they changed, and what is in them."""

import hashlib
from pathlib import Path


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
