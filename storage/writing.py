"""Writing to a file system: files that are whole or not there, and a check before any work."""

import errno
import os
import shutil
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
def temporary_folder(what: str, num_bytes: int = 0) -> Iterator[Path]:
    """Yield a folder of its own that is removed afterwards, where the system keeps such folders.

    Args:
        what: What needs it, for an error.
        num_bytes: What it must have room for, as far as that is known.

    Raises:
        StorageError: There is no such place, or it is too small; the message says how much is
            wanted and how to choose another place.
    """
    other = "free some space, or let TMPDIR name a folder with room"
    try:
        place = Path(tempfile.gettempdir())
        if (free := shutil.disk_usage(place).free) < num_bytes:
            raise StorageError(
                f"{what} needs {_mib(num_bytes)} in {place}, which has {_mib(free)} left; {other}"
            )
        # What another thread still writes into it must not fail whoever is done.
        with tempfile.TemporaryDirectory(
            prefix="hansang-", dir=place, ignore_cleanup_errors=True
        ) as folder:
            yield Path(folder)
    except FileNotFoundError as error:
        if error.errno != errno.ENOENT or error.filename is not None:
            raise
        # Of `gettempdir`: no place can be written.
        room = _mib(num_bytes) if num_bytes else "a place"
        raise StorageError(f"{what} needs {room} for a while: {error}; {other}") from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StorageError(f"{what} has no room in {place}: {error.strerror}; {other}") from error


def _mib(num_bytes: int) -> str:
    return f"{-(-num_bytes // 2**20)} MiB"


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
