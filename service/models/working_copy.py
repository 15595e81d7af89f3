"""A model repository as a folder to change or to follow, wherever it lies."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.errors import UnavailableError
from service.models.bucket import BucketRepository
from storage import StorageError, bucket_url, temporary_folder


@contextmanager
def working_copy(repository: Path) -> Iterator[Path]:
    """Yield a folder to change; if the repository is a bucket, push the changes afterwards.

    Raises:
        ConflictError: Another release came first.
        UnavailableError: The bucket cannot be read or written.
    """
    url = bucket_url(repository)
    if url is None:
        yield repository
        return
    with temporary_folder(f"a copy of {url}") as folder:
        copy = BucketRepository(url, folder)
        copy.pull()
        yield folder
        copy.push()


@contextmanager
def followed_copy(url: str) -> Iterator[BucketRepository]:
    """Yield a bucket's repository with a folder for its copy, which is empty yet.

    Raises:
        UnavailableError: There is no place for a copy, or s3fs is not installed.
    """
    try:
        with temporary_folder(f"a copy of {url}") as folder:
            yield BucketRepository(url, folder)
    except StorageError as error:
        raise UnavailableError(str(error)) from error
