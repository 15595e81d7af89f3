"""Runs and caches that lie in a bucket, and their copies on this machine.

s3://bucket/runs/first      see `training/buckets/snapshot.py`
work/bucket/runs/first      the copy, an ordinary folder

Every function also takes a path that is no bucket's, and then has nothing to copy.
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


def local_path(path: Path) -> Path:
    """Return where a run or cache lies, or would lie, on this machine.

    Copies of a bucket's lie in `work`, or where HANSANG_WORK says.
    """
    url = bucket_url(path)
    if url is None:
        return path
    return Path(os.environ.get("HANSANG_WORK", "work")) / url.removeprefix("s3://")


def pull(path: Path) -> Path:
    """Bring the copy of a run or cache up to date with the bucket; return where the copy lies.

    Raises:
        StorageError: The bucket cannot be read.
        RunError: What it holds is damaged.
    """
    if url := bucket_url(path):
        with locked(local_path(path), wait=True):
            Mirror(url, local_path(path)).pull()
    return local_path(path)


def push_once(path: Path) -> None:
    """Push a cache, which never changes, unless the bucket has it.

    A bucket that cannot be written costs a warning only, since the copy is complete.
    """
    url = bucket_url(path)
    if url is None:
        return
    try:
        with locked(local_path(path), wait=True):
            mirror = Mirror(url, local_path(path))
            if not mirror.is_there():
                mirror.push()
    except TakenError:
        pass  # another machine pushed the same
    except StorageError as error:
        say(f"warning: not pushed: {error}")


@contextmanager
def working_copy(path: Path, lost: Callable[[], object] = lambda: None) -> Iterator[Path]:
    """Yield the copy of a run to work on; changes are pushed meanwhile, and when the block ends.

    Args:
        path: The run.
        lost: Is called, in a thread, when another machine has continued the run meanwhile.

    Raises:
        StorageError: The bucket cannot be read, or not be written at the end; the copy is complete.
        RunError: Another process works on the run, here or elsewhere, or the bucket's is damaged.
    """
    url = bucket_url(path)
    if url is None:
        yield path
        return
    with locked(local_path(path)):
        mirror = Mirror(url, local_path(path))
        mirror.pull()
        ended = threading.Event()
        pushing = threading.Thread(target=mirror.follow, args=(ended, lost), daemon=True)
        pushing.start()
        try:
            yield mirror.copy
        except Exception:
            ended.set()
            pushing.join()
            # The block's error counts; a RunError for the other machine explains it, and wins.
            try:
                mirror.finish()
            except StorageError as error:
                say(f"warning: not pushed: {error}")
            raise
        ended.set()
        pushing.join()
        mirror.finish()


@contextmanager
def locked(copy: Path, *, wait: bool = False) -> Iterator[None]:
    """Let one process of this machine in at a time; the system frees the lock of a killed one."""
    copy.parent.mkdir(parents=True, exist_ok=True)
    with (copy.parent / f".lock-{copy.name}").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise RunError(
                f"another process of this machine works in {copy}; wait for it"
            ) from None
        yield
