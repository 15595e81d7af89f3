"""Locks of this machine: one training per GPU, and one process per run.

`hansang deploy` sets up Prefect's side: pools with a limit of one, a run whose heartbeat stops is
set Crashed, and a Crashed run is started again. A server that was away may call a living run dead.
The run that is started again therefore waits here until the first one has ended, and finds its
work done.
"""

import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from terminal import UserError

_POLL_S = 1.0


def gpu() -> str | None:
    """Return the name of the GPU that this process trains on, None for none.

    Its worker says so in CUDA_VISIBLE_DEVICES; HANSANG_GPU overrides it.
    """
    named = os.environ.get("HANSANG_GPU") or os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        first = named.split(",")[0]
        return f"gpu-{first}" if first else None
    return "gpu-0" if Path("/dev/nvidia0").exists() else None


def gpu_of_worker(gpus: int) -> IO[str] | None:
    """Take a GPU of this machine that no other worker has, for this process and its children.

    Returns:
        A lock to keep open as long as the worker lives; None if CUDA_VISIBLE_DEVICES says already
        which GPU it is.

    Raises:
        UserError: Each GPU has a worker.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES") is not None:
        return None
    for number in range(gpus):
        lock = _path(f"worker-gpu-{number}").open("a")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        os.environ["CUDA_VISIBLE_DEVICES"] = str(number)
        return lock
    raise UserError(f"each of the {gpus} GPUs of this machine has a worker; start no more")


def _path(name: str) -> Path:
    folder = Path(os.environ.get("HANSANG_LOCKS", tempfile.gettempdir()))
    return folder / f"hansang-{os.getuid()}-{name}.lock"


@contextmanager
def holding(name: str | None, say: Callable[[str], None]) -> Iterator[tuple[int, ...]]:
    """Hold a named lock of this machine; wait for it first, and yield its descriptor to pass on.

    A child that inherits the descriptor holds the lock as long as it lives, even if this process is
    killed: the next training waits until the last one has saved its checkpoint. Without a name
    there is no lock, and no descriptor.
    """
    if name is None:
        yield ()
        return
    path = _path(name)
    with path.open("a") as lock:
        waited = False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waited:
                    say(f"another training holds {name} ({path}); waiting for it to end")
                waited = True
                time.sleep(_POLL_S)
        yield (lock.fileno(),)
