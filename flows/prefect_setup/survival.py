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

_POLL_S = 1.0


def gpu() -> str | None:
    """Return the name of the GPU that this process trains on, None for none.

    Its pool says so in HANSANG_GPU, or CUDA_VISIBLE_DEVICES does.
    """
    named = os.environ.get("HANSANG_GPU") or os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        first = named.split(",")[0]
        return f"gpu-{first}" if first else None
    return "gpu-0" if Path("/dev/nvidia0").exists() else None


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
    folder = Path(os.environ.get("HANSANG_LOCKS", tempfile.gettempdir()))
    path = folder / f"hansang-{os.getuid()}-{name}.lock"
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
