"""Photos into rows of a file, on every core.

By processes where photos are many: threads would hand the interpreter's lock to each other at every
file they open, and two of them decode less than 1.3 x as many small photos as one. By threads where
photos are few, since a process takes half a second to begin.
"""

import ctypes
import hashlib
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from multiprocessing.context import SpawnContext, SpawnProcess
from types import ModuleType
from typing import NamedTuple

from machine import num_cores
from photo_folder.reading import content, reason
from service.pixels import budget
from service.pixels.preprocessing import ImageError, load_square
from terminal import say
from training.errors import DataError

AT_ONCE = 16
"""Photos of a task: a task for each takes a tenth of the time that small ones take to decode."""

_FEW = 1024
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@contextmanager
def workers(num_photos: int) -> Iterator[Executor]:
    """Yield what runs tasks, one for each core at a time.

    Raises:
        DataError: A process was killed.
    """
    cores = num_cores()
    pool: Executor = ThreadPoolExecutor(cores, "decode")
    if num_photos >= _FEW:
        try:
            pool = _processes(cores)
        except OSError as error:
            say(
                f"warning: processes cannot share locks in /dev/shm ({reason(error)}); threads"
                " decode the photos, which takes longer. 1 MiB there is enough: in a container,"
                " --shm-size 1m"
            )
    try:
        with pool:
            yield pool
    except BrokenExecutor as error:
        raise DataError(
            "a process that decodes photos was killed, most likely for want of memory; free some,"
            " and try again"
        ) from error


def _processes(cores: int) -> ProcessPoolExecutor:
    """Return processes that decode.

    Raises:
        OSError: The system has no room for their locks.
    """
    # Spawned: whoever calls may have threads, and a context on a GPU.
    context = _Context()
    # One picture at a time may take more memory than its process's share of it.
    start = (os.getpid(), cores, context.Lock())
    pool = ProcessPoolExecutor(cores, context, _begin, start)
    _start(pool, cores)
    return pool


def _start(pool: ProcessPoolExecutor, cores: int) -> None:
    """Start every process, without the program that this one runs.

    Each would import it first: seconds for a Prefect flow, and without an end for a script that
    does not ask whether it is the main one.
    """
    program = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        for _ in range(cores):
            pool.submit(int)
    finally:
        sys.modules["__main__"] = program


class _Process(SpawnProcess):
    """A process that can be ended, although it ignores SIGTERM."""

    def terminate(self) -> None:
        """End it by SIGKILL, as the pool must where another process was killed.

        One that is killed may hold the lock of the tasks, for which the others wait.
        """
        self.kill()


class _Context(SpawnContext):
    """How processes that decode are started."""

    Process = _Process


class Digest(NamedTuple):
    """What a photo's content is, or why it cannot be had."""

    digest: str
    """SHA-256; empty if it cannot be read."""
    why: str = ""


class Fault(NamedTuple):
    """Why a photo has no pixels."""

    reason: str
    may_pass: bool
    """Whether it could not be read, which another day it may, and not decoded."""


def digest(photo: str) -> Digest:
    """Return the SHA-256 of a photo's content, or why it cannot be read."""
    try:
        return Digest(hashlib.sha256(content(photo)).hexdigest())
    except OSError as error:
        return Digest("", unread(error))


def unread(error: OSError) -> str:
    """Return why a photo cannot be read, for its line in a list."""
    return f"cannot be read: {reason(error)}"


def fill(rows: str, offset: int, side: int, photo: tuple[int, str]) -> Fault | None:
    """Write a photo, `(side, side, 3)` bytes, to its row of a file; return why not if it is bad.

    Raises:
        OSError: The row cannot be written.
    """
    row, path = photo
    try:
        pixels = load_square(content(path), side)
    except ImageError as error:
        return Fault(str(error), may_pass=False)
    except OSError as error:
        return Fault(unread(error), may_pass=True)
    # Not into mapped memory: faults at new pages take a third of the time then, at 224 px.
    descriptor = os.open(rows, os.O_WRONLY)
    try:
        os.pwrite(descriptor, pixels.data, offset + row * pixels.nbytes)
    finally:
        os.close(descriptor)
    return None


def _begin(parent: int, processes: int, lock: AbstractContextManager[object]) -> None:
    """Make a process one of several that decode, and end with who started it."""
    budget.share(processes, lock)
    # Whoever builds may be killed; Ctrl-C and SIGTERM, which all may be sent, are theirs to hear.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
