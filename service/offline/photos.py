"""The photos of an offline classification: found one page at a time, read many at a time."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from photo_folder.left_out import LeftOut
from photo_folder.names import kind_of, passed_over, suffix_of
from photo_folder.reading import content, reason
from photo_folder.scan import photos_in
from service.pixels.preprocessing import MAX_BYTES, ImageError
from storage import Bucket, StorageError, bucket_url, file_system


class Photo(NamedTuple):
    """A photo that was found."""

    name: str
    """A path from the root of the file system, or `s3://bucket/key`."""
    num_bytes: int


def found(places: Sequence[str], left_out: LeftOut) -> Iterator[Photo]:
    """Yield each photo in folders and below `s3://` prefixes once, and those that are named.

    Raises:
        UserError: There is no such photo or folder.
        StorageError: The bucket cannot be listed.
    """
    tops = [bucket_url(place) or os.path.abspath(place) for place in places]  # noqa: PTH100
    for number, top in enumerate(tops):
        before = tops[:number]
        for photo in _below(top, left_out):
            # A folder and a photo in it may both be named, and all names are too many to keep.
            if not any(photo.name == each or photo.name.startswith(f"{each}/") for each in before):
                yield photo


def _below(top: str, left_out: LeftOut) -> Iterator[Photo]:
    if bucket_url(top) is not None:
        yield from _in_bucket(top, left_out)
    else:
        for path, num_bytes in photos_in(Path(top), left_out):
            yield Photo(str(path), num_bytes)


class Reader:
    """Reads photos, those of a bucket many at a time. For one thread."""

    def __init__(self) -> None:
        self._s3: Any = None

    def read(self, photos: Sequence[Photo]) -> list[bytes | ImageError]:
        """Return the bytes of each, or why it cannot be read.

        Raises:
            StorageError: The bucket is away, which is no fault of a photo.
        """
        # What is refused anyway is not fetched: a part of huge files must not fill the memory.
        wanted = [photo.name for photo in photos if photo.num_bytes <= MAX_BYTES]
        remote = [name for name in wanted if bucket_url(name)]
        there = self._fetch(remote) if remote else {}
        return [
            ImageError(
                f"the image has {photo.num_bytes} bytes; at most {MAX_BYTES} are accepted",
                kind="too_many_bytes",
            )
            if photo.num_bytes > MAX_BYTES
            else (there[photo.name] if photo.name in there else _read(photo.name))
            for photo in photos
        ]

    def _fetch(self, names: Sequence[str]) -> dict[str, bytes | ImageError]:
        self._s3 = self._s3 or file_system()
        keys = {name.removeprefix("s3://"): name for name in names}
        answers: dict[str, Any] = self._s3.cat(list(keys), on_error="return")
        there: dict[str, bytes | ImageError] = {}
        for key, answer in answers.items():
            if isinstance(answer, FileNotFoundError | PermissionError):
                there[keys[key]] = ImageError(f"cannot be read: {answer}")
            elif isinstance(answer, BaseException):
                raise StorageError(f"{keys[key]}: {answer or type(answer).__name__}") from answer
            else:
                there[keys[key]] = answer
        return there


def _read(name: str) -> bytes | ImageError:
    try:
        return content(name)
    except OSError as error:
        return ImageError(f"cannot be read: {reason(error)}")


def _in_bucket(url: str, left_out: LeftOut) -> Iterator[Photo]:
    """List a prefix of any size, one page in memory at a time."""
    for page in Bucket(url).pages():
        for listed in page:
            *folders, name = listed.name.split("/")
            kind = next(filter(None, map(passed_over, folders)), None) or kind_of(
                name or url.rpartition("/")[2]
            )
            if kind is None:
                yield Photo(f"{url}/{listed.name}" if name else url, listed.num_bytes)
            else:
                left_out.add(listed.name or url, kind, suffix_of(name or url))
