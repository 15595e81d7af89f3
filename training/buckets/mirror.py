"""Runs and caches that live in a bucket, and are worked on in a copy on this machine.

s3://bucket/runs/first      see `training/buckets/snapshot.py`
work/bucket/runs/first      the copy, an ordinary folder
"""

import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from storage import StorageError, TakenError, bucket_url
from terminal import say
from training.buckets.snapshot import Mirror
from training.errors import RunError


def here(path: Path) -> Path:
    """Return where a folder lies on this machine; the copy of a bucket's, be it there or not.

    Copies lie in `work`, or where HANSANG_WORK says.
    """
    url = bucket_url(path)
    if url is None:
        return path
    return Path(os.environ.get("HANSANG_WORK", "work")) / url.removeprefix("s3://")


def pulled(path: Path) -> Path:
    """Return a run on this machine, brought in line with the bucket if it lives in one.

    Raises:
        StorageError: The bucket cannot be read.
        RunError: What it holds is damaged.
    """
    if url := bucket_url(path):
        with _alone(here(path), wait=True):
            Mirror(url, here(path)).pull()
    return here(path)


def shared(path: Path) -> None:
    """Push what was made here, once, if it lives in a bucket: a cache, which never changes.

    A bucket that cannot be written costs a warning: what is here is whole, and serves.
    """
    url = bucket_url(path)
    if url is None:
        return
    try:
        with _alone(here(path), wait=True):
            mirror = Mirror(url, here(path))
            if not mirror.is_there():
                mirror.push()
    except TakenError:
        pass  # another machine made the same
    except StorageError as error:
        say(f"warning: not pushed: {error}")


@contextmanager
def kept(path: Path, lost: Callable[[], object] = lambda: None) -> Iterator[Path]:
    """Give a run on this machine to work on; what changes is pushed while it does, and at the end.

    Args:
        path: The run; if it is a folder, nothing is done.
        lost: Is called, by a thread, when another machine went on with the run meanwhile.

    Raises:
        StorageError: The bucket cannot be read, or not be written at the end; the copy is whole.
        RunError: Another process works on it, here or elsewhere, or what is there is damaged.
    """
    url = bucket_url(path)
    if url is None:
        yield path
        return
    with _alone(here(path)):
        mirror = Mirror(url, here(path))
        mirror.pull()
        ended = threading.Event()
        pushing = threading.Thread(target=mirror.follow, args=(ended, lost), daemon=True)
        pushing.start()
        try:
            yield mirror.copy
        except Exception:
            ended.set()
            pushing.join()
            # Why it ended is what counts, unless it ended for the other machine.
            try:
                mirror.finish()
            except StorageError as error:
                say(f"warning: not pushed: {error}")
            raise
        ended.set()
        pushing.join()
        mirror.finish()


@contextmanager
def _alone(copy: Path, *, wait: bool = False) -> Iterator[None]:
    """Let in one process of this machine; the system frees the lock of one that was killed."""
    copy.parent.mkdir(parents=True, exist_ok=True)
    with (copy.parent / f".lock-{copy.name}").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise RunError(
                f"another process of this machine works in {copy}; wait for it"
            ) from None
        yield
