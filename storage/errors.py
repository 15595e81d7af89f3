"""What a storage raises, for people; and the URLs of buckets that came as paths."""

import re
from pathlib import Path

from terminal import UserError


class StorageError(UserError):
    """A folder or a bucket cannot be read or written."""


class TakenError(StorageError):
    """Another one replaced the file first."""


def bucket_url(path: Path | str) -> str | None:
    """Return the URL that a path was made of, or None where it is a path.

    `Path("s3://bucket/models")` keeps one of the two slashes.
    """
    found = re.fullmatch(r"s3:/+(.+)", str(path))
    return f"s3://{found[1].rstrip('/')}" if found else None


def shown(path: Path | str) -> str:
    """Return a path, or the URL that it was made of, as a user writes it."""
    return bucket_url(path) or str(path)
