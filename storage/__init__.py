"""Folders that may be buckets: whole files under names, in a folder or below `s3://bucket/prefix`.

path or URL ─► storage_of ─► Folder | Bucket        a file is there whole or not at all, in both
"""

from pathlib import Path
from typing import Protocol

from storage.bucket import Bucket, Listed, file_system, was_refused
from storage.errors import StorageError, TakenError, bucket_url, shown
from storage.folder import Folder
from storage.writing import replacing, require_writable, sync, temporary_folder

__all__ = [
    "Bucket",
    "Folder",
    "Listed",
    "Storage",
    "StorageError",
    "TakenError",
    "bucket_url",
    "file_system",
    "replacing",
    "require_writable",
    "shown",
    "storage_of",
    "sync",
    "temporary_folder",
    "was_refused",
]


class Storage(Protocol):
    """Files under names such as `answers/000012.jsonl`.

    Raises:
        StorageError: By every method: what cannot be read or written, and why.
    """

    url: str
    """The folder, or `s3://…`."""

    def names(self, folder: str = "") -> list[str]:
        """Return the names of all files, or of those below a folder, sorted."""

    def size(self) -> int:
        """Return how many bytes all files have."""

    def read(self, name: str) -> bytes | None:
        """Return a file's content; None if it is not there."""

    def write(self, name: str, data: bytes) -> None:
        """Write a file, or replace it, whole."""

    def create(self, name: str, data: bytes) -> bool:
        """Write a file that is not there; return whether it was this very call that did."""

    def remove(self, name: str) -> None:
        """Remove a file; one that is not there is no error."""


def storage_of(path: Path | str) -> Storage:
    """Return the bucket's prefix, or the folder, that a path names."""
    url = bucket_url(path)
    return Folder(Path(path)) if url is None else Bucket(url)
