"""Writing to a file system: files that are whole or not there, and a check before any work."""

import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storage.errors import StorageError, bucket_url


def require_writable(folder: Path, option: str) -> None:
    """Check that files can be made in a folder, or the folder itself, before any work for them.

    Nothing stays that was made for it. A place in a bucket is not asked.

    Raises:
        StorageError: A file is in the way, or the system does not let this user write there.
    """
    if bucket_url(folder) is not None:
        return
    at = folder.absolute()
    while not os.path.lexists(at):
        at = at.parent
    if not at.is_dir():
        raise StorageError(f"{option} {folder}: {at} is no folder; choose another place")
    try:
        # Rights alone do not tell: a network drive may refuse whom its own server does not know.
        Path(tempfile.mkdtemp(prefix=".tmp-", dir=at)).rmdir()
    except OSError as error:
        raise StorageError(
            f"{option} {folder}: {at} cannot be written ({error.strerror}); choose another place"
        ) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write to; it becomes `path` when the block ends well.

    A kill at any moment leaves the old file or the new one, and at worst a `.tmp-` beside it. Each
    writer has a name of its own, so that of two at a time the last one wins and neither fails. It
    ends as `path` does, for writers that choose a format by the suffix.
    """
    temporary = path.with_name(f".tmp-{uuid.uuid4().hex[:12]}-{path.name}")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Force a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
