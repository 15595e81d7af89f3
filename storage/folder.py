"""Whole files in a folder of a file system."""

import os
import uuid
from pathlib import Path

from storage.retries import retried
from storage.writing import sync

_UNFINISHED = ".unfinished"
"""Where a folder's files are written before they are there."""


class Folder:
    """A folder on a file system; see `Storage`."""

    def __init__(self, path: Path) -> None:
        """Name a folder; it is made at the first write."""
        self.pauses_s: tuple[float, ...] = ()
        self.url = str(path)
        self._path = path

    @retried
    def names(self, folder: str = "") -> list[str]:
        """See `Storage`."""
        top = self._path / folder
        found = (path.relative_to(self._path) for path in top.rglob("*") if path.is_file())
        return sorted(path.as_posix() for path in found if path.parts[0] != _UNFINISHED)

    @retried
    def size(self) -> int:
        """See `Storage`."""
        return sum(path.stat().st_size for path in self._path.rglob("*") if path.is_file())

    @retried
    def read(self, name: str) -> bytes | None:
        """See `Storage`."""
        try:
            return (self._path / name).read_bytes()
        except FileNotFoundError:
            return None

    @retried
    def write(self, name: str, data: bytes) -> None:
        """See `Storage`."""
        self._temporary(name, data).replace(self._path / name)
        sync((self._path / name).parent)

    @retried
    def create(self, name: str, data: bytes) -> bool:
        """See `Storage`."""
        temporary = self._temporary(name, data)
        try:
            # A rename would replace what is there.
            os.link(temporary, self._path / name)
        except FileExistsError:
            return False
        finally:
            temporary.unlink()
        sync((self._path / name).parent)
        return True

    @retried
    def remove(self, name: str) -> None:
        """See `Storage`."""
        (self._path / name).unlink(missing_ok=True)

    def _temporary(self, name: str, data: bytes) -> Path:
        (self._path / name).parent.mkdir(parents=True, exist_ok=True)
        # Apart: who is killed here leaves it, and whoever reads a folder reads all that is in it.
        (self._path / _UNFINISHED).mkdir(exist_ok=True)
        # Two that write the same file at a time must not write into one another's.
        temporary = self._path / _UNFINISHED / uuid.uuid4().hex
        temporary.write_bytes(data)
        sync(temporary)
        return temporary
