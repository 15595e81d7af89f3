"""Folders that may be buckets: whole files under names, in a folder or below `s3://bucket/prefix`.

A file is there whole or not at all, in both. Credentials and the endpoint of a bucket come from
the environment, as boto3 reads them (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL).
"""

import functools
import os
import re
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, Protocol, TypeVar

from terminal import UserError

NETWORK = {
    "connect_timeout": 5,
    "read_timeout": 20,
    # s3fs tries again by itself.
    "retries": {"total_max_attempts": 2},
}
"""How long a store is waited for, in seconds, and how often botocore asks it."""

_PAUSES_S = (0.2, 0.5, 1.0, 2.0)
"""Before each further try of what failed on the way; s3fs has tried five times by then."""

_UNFINISHED = ".unfinished"
"""Where a folder's files are written before they are there."""

_REFUSED = ("PreconditionFailed", "ConditionalRequestConflict")


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


def file_system() -> Any:
    """Return s3fs's file system: nothing that others write is hidden by its caches.

    Raises:
        StorageError: s3fs is not installed.
    """
    try:
        from s3fs import S3FileSystem
    except ImportError as error:
        raise StorageError(
            "s3:// needs s3fs, which is not installed: pip install 'hansang[s3]'"
        ) from error
    return S3FileSystem(use_listings_cache=False, skip_instance_cache=True, config_kwargs=NETWORK)


def was_refused(error: BaseException) -> bool:
    """Return whether a store refused a write because its condition did not hold."""
    response = getattr(error.__cause__, "response", None) or {}
    return response.get("Error", {}).get("Code") in _REFUSED


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


class Storage(Protocol):
    """Files under names such as `answers/000012.jsonl`.

    Raises:
        StorageError: By every method: what cannot be read or written, and why.
    """

    url: str
    """The folder, or `s3://…`."""

    def names(self, folder: str = "") -> list[str]:
        """Return the names of all files, or of those below a folder, sorted."""

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


P = ParamSpec("P")
T = TypeVar("T")


def _told(method: Callable[P, T]) -> Callable[P, T]:
    """Try again what a network may have failed; say where and why in the end."""

    @functools.wraps(method)
    def tried(*given: P.args, **named: P.kwargs) -> T:
        self: Any = given[0]
        for pause_s in self.pauses_s:
            try:
                return method(*given, **named)
            except TakenError:
                raise
            except (FileNotFoundError, PermissionError):
                break
            except Exception:  # botocore, aiohttp and s3fs have no common base
                time.sleep(pause_s)
        try:
            return method(*given, **named)
        except TakenError:
            raise
        except Exception as error:
            what = f"{self.url}/{given[1]}" if len(given) > 1 else self.url
            raise StorageError(f"{what}: {error or type(error).__name__}") from error

    return tried


class Folder:
    """A folder on a file system; see `Storage`."""

    def __init__(self, path: Path) -> None:
        """Name a folder; it is made at the first write."""
        self.pauses_s: tuple[float, ...] = ()
        self.url = str(path)
        self._path = path

    @_told
    def names(self, folder: str = "") -> list[str]:
        """See `Storage`."""
        top = self._path / folder
        found = (path.relative_to(self._path) for path in top.rglob("*") if path.is_file())
        return sorted(path.as_posix() for path in found if path.parts[0] != _UNFINISHED)

    @_told
    def read(self, name: str) -> bytes | None:
        """See `Storage`."""
        try:
            return (self._path / name).read_bytes()
        except FileNotFoundError:
            return None

    @_told
    def write(self, name: str, data: bytes) -> None:
        """See `Storage`."""
        self._temporary(name, data).replace(self._path / name)
        sync((self._path / name).parent)

    @_told
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

    @_told
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


class Bucket:
    """What lies below `s3://bucket/prefix`; see `Storage`."""

    def __init__(self, url: str, *, pauses_s: tuple[float, ...] = _PAUSES_S) -> None:
        """Connect at the first use.

        Args:
            url: `s3://bucket/prefix`.
            pauses_s: Seconds before each further try of what failed.

        Raises:
            StorageError: s3fs is not installed.
        """
        self.pauses_s = pauses_s
        self.url = url
        self._root = url.removeprefix("s3://")
        self._s3 = file_system()

    @_told
    def names(self, folder: str = "") -> list[str]:
        """See `Storage`."""
        return sorted(self._find(folder))

    @_told
    def tags(self, folder: str = "") -> dict[str, str]:
        """Return the name of each file, or of those below a folder, and its tag; see `tagged`."""
        return {name: info["ETag"] for name, info in self._find(folder).items()}

    @_told
    def read(self, name: str) -> bytes | None:
        """See `Storage`."""
        try:
            content: bytes = self._s3.cat_file(f"{self._root}/{name}")
        except FileNotFoundError:
            return None
        return content

    @_told
    def write(self, name: str, data: bytes) -> None:
        """See `Storage`."""
        self._s3.pipe_file(f"{self._root}/{name}", data)

    @_told
    def create(self, name: str, data: bytes) -> bool:
        """See `Storage`."""
        try:
            self._s3.pipe_file(f"{self._root}/{name}", data, IfNoneMatch="*")
        except OSError as error:
            if not was_refused(error):
                raise
            # A write that succeeded, and whose answer was lost, succeeded.
            return self.read(name) == data
        return True

    @_told
    def tagged(self, name: str) -> tuple[bytes, str] | None:
        """Return a file's content, and a tag that it has as long as nobody replaces it."""
        while True:
            try:
                tag: str = self._s3.info(f"{self._root}/{name}")["ETag"]
                content: bytes = self._s3.cat_file(f"{self._root}/{name}")
                if self._s3.info(f"{self._root}/{name}")["ETag"] == tag:
                    return content, tag
            except FileNotFoundError:
                return None

    @_told
    def replace(self, name: str, data: bytes, tag: str | None) -> str:
        """Replace the file that has this tag, or write one that is not there; return its new tag.

        Raises:
            TakenError: Another one was quicker.
        """
        condition = {"IfMatch": tag} if tag else {"IfNoneMatch": "*"}
        try:
            self._s3.pipe_file(f"{self._root}/{name}", data, **condition)
        except FileNotFoundError:
            raise TakenError(f"{self.url}/{name} was removed meanwhile") from None
        except OSError as error:
            if not was_refused(error):
                raise
        there = self.tagged(name)
        # A write that succeeded, and whose answer was lost, succeeded.
        if there is None or there[0] != data:
            raise TakenError(f"{self.url}/{name} was replaced meanwhile")
        return there[1]

    @_told
    def put(self, name: str, path: Path) -> None:
        """Copy a file in, or replace it, whole."""
        self._s3.put_file(str(path), f"{self._root}/{name}")

    @_told
    def get(self, name: str, path: Path) -> None:
        """Copy a file out, to a path that nobody reads yet."""
        self._s3.get_file(f"{self._root}/{name}", str(path))

    @_told
    def remove(self, name: str) -> None:
        """See `Storage`."""
        # S3 takes the removal of what is not there for a success.
        self._s3.rm_file(f"{self._root}/{name}")

    def _find(self, folder: str) -> dict[str, dict[str, Any]]:
        top = f"{self._root}/{folder}" if folder else self._root
        found = self._s3.find(top, detail=True)
        return {path.removeprefix(f"{self._root}/"): info for path, info in found.items()}


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
