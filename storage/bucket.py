"""Whole files below `s3://bucket/prefix`.

Credentials and the endpoint come from the environment, as boto3 reads them (AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL).
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from storage.errors import StorageError, TakenError
from storage.retries import retried

NETWORK = {
    "connect_timeout": 5,
    "read_timeout": 20,
    # s3fs tries again by itself.
    "retries": {"total_max_attempts": 2},
}
"""How long a store is waited for, in seconds, and how often botocore asks it."""

_PAUSES_S = (0.2, 0.5, 1.0, 2.0)
"""Before each further try of what failed on the way; s3fs has tried five times by then."""

_PAGE = 1000
"""Names in an answer of S3, at most."""

_CHUNK_BYTES = 2**20

_REFUSED = ("PreconditionFailed", "ConditionalRequestConflict")


@cache
def _session() -> Any:
    """Return what reads botocore's description of S3, once: that takes 0.07 s of CPU."""
    from aiobotocore.session import get_session

    return get_session()


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
    return S3FileSystem(
        use_listings_cache=False, skip_instance_cache=True, config_kwargs=NETWORK,
        session=_session(),
    )  # fmt: skip


def was_refused(error: BaseException) -> bool:
    """Return whether a store refused a write because its condition did not hold."""
    response = getattr(error.__cause__, "response", None) or {}
    return response.get("Error", {}).get("Code") in _REFUSED


class Listed(NamedTuple):
    """A file in a listing."""

    name: str
    """Its path below the prefix; empty for a file that is called as the prefix."""
    num_bytes: int
    tag: str
    """Stays the same as long as nobody replaces the file."""


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

    @retried
    def names(self, folder: str = "") -> list[str]:
        """See `Storage`."""
        return sorted(self._find(folder))

    @retried
    def tags(self, folder: str = "") -> dict[str, str]:
        """Return the name of each file, or of those below a folder, and its tag; see `tagged`."""
        return {name: info["ETag"] for name, info in self._find(folder).items()}

    def size(self) -> int:
        """See `Storage`."""
        return sum(each.num_bytes for page in self.pages() for each in page if each.name)

    def pages(self) -> Iterator[list[Listed]]:
        """List a prefix of any size in the order of its names, one page in memory at a time.

        Raises:
            StorageError: The bucket cannot be listed.
        """
        _, _, prefix = self._root.partition("/")
        token: dict[str, str] = {}
        while True:
            page = self._page(**token)
            yield [
                Listed(_below(key, prefix), item["Size"], item["ETag"])
                for item in page.get("Contents", ())
                # A prefix is a folder, or one file: `noon` must not find `noon-2/soup.jpg`. A key
                # that ends with a slash is what some tools leave for a folder.
                if not (key := item["Key"]).endswith("/")
                and (not prefix or key == prefix or key.startswith(f"{prefix}/"))
            ]
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    @retried
    def read(self, name: str) -> bytes | None:
        """See `Storage`."""
        try:
            content: bytes = self._s3.cat_file(f"{self._root}/{name}")
        except FileNotFoundError:
            return None
        return content

    @retried
    def write(self, name: str, data: bytes) -> None:
        """See `Storage`."""
        self._s3.pipe_file(f"{self._root}/{name}", data)

    @retried
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

    @retried
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

    @retried
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

    @retried
    def put(self, name: str, path: Path) -> None:
        """Copy a file in, or replace it, whole."""
        self._s3.put_file(str(path), f"{self._root}/{name}")

    @retried
    def get(self, name: str, path: Path) -> None:
        """Copy a file out, to a path that nobody reads yet."""
        self._s3.get_file(f"{self._root}/{name}", str(path))

    @retried
    def fetch(self, name: str, path: Path) -> str | None:
        """Copy a file out as `get` does; return the tag of this very content, None if it is gone.

        Raises:
            StorageError: It cannot be read, or came in part.
        """
        from fsspec.asyn import sync

        bucket, _, key = f"{self._root}/{name}".partition("/")
        try:
            answer = self._s3.call_s3("get_object", Bucket=bucket, Key=key)
        except FileNotFoundError:
            return None
        with path.open("wb") as file:
            while chunk := sync(self._s3.loop, answer["Body"].read, _CHUNK_BYTES):
                file.write(chunk)
            if file.tell() != answer["ContentLength"]:
                raise OSError(f"{file.tell()} of {answer['ContentLength']} bytes came")
        tag: str = answer["ETag"]
        return tag

    @retried
    def remove(self, name: str) -> None:
        """See `Storage`."""
        # S3 takes the removal of what is not there for a success.
        self._s3.rm_file(f"{self._root}/{name}")

    @retried
    def _page(self, **token: str) -> Any:
        bucket, _, prefix = self._root.partition("/")
        return self._s3.call_s3(
            "list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=_PAGE, **token
        )

    def _find(self, folder: str) -> dict[str, dict[str, Any]]:
        top = f"{self._root}/{folder}" if folder else self._root
        found = self._s3.find(top, detail=True)
        return {path.removeprefix(f"{self._root}/"): info for path, info in found.items()}


def _below(key: str, prefix: str) -> str:
    return key.removeprefix(prefix).removeprefix("/") if prefix else key
