"""What keeps a run alive, and what keeps it from living for ever.

Prefect's side is set up by `hansang deploy`: a run whose heartbeat stops is set Crashed, and a
Crashed run is scheduled again, under the same id, so that it finds its checkpoint. Here are the two
bounds: a run that crashes again and again is given up, and one GPU has one training.
"""

import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from prefect import runtime
from prefect.client.orchestration import get_client

from terminal import UserError

MAX_RETRIES = 3
"""Times that a crashed run is begun again."""

_POLL_S = 1.0


def limit_crashes() -> None:
    """End a run that has crashed too often; called first in every flow.

    Raises:
        UserError: It crashed more than `MAX_RETRIES` times; the message has the last reason.
    """
    if (runtime.flow_run.run_count or 0) < 2:
        return
    with get_client(sync_client=True) as client:
        states = client.read_flow_run_states(runtime.flow_run.id)
    crashes = [state for state in states if state.is_crashed()]
    if len(crashes) > MAX_RETRIES:
        last = max(crashes, key=lambda state: state.timestamp)
        raise UserError(
            f"given up: it crashed {len(crashes)} times, and {MAX_RETRIES} retries are allowed; the"
            f" last time: {last.message or last.name}"
        )


def gpu() -> str | None:
    """Return which GPU this process trains on, None for none: a pool names it, or CUDA does."""
    named = os.environ.get("HANSANG_GPU") or os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return named.split(",")[0] or None
    return "0" if Path("/dev/nvidia0").exists() else None


@contextmanager
def holding(device: str | None, say: Callable[[str], None]) -> Iterator[int | None]:
    """Wait until nobody else on this machine trains on a GPU; yield the lock's descriptor.

    A child that inherits it holds the GPU for as long as it lives, also when this process is
    killed: the next training waits until the last one has saved its checkpoint.
    """
    if device is None:
        yield None
        return
    folder = Path(os.environ.get("HANSANG_LOCKS", tempfile.gettempdir()))
    path = folder / f"hansang-{os.getuid()}-gpu-{device}.lock"
    with path.open("a") as lock:
        waited = False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waited:
                    say(f"GPU {device} is taken by another training ({path}); waiting for it")
                waited = True
                time.sleep(_POLL_S)
        yield lock.fileno()
