"""Jobs that several processes do side by side: each takes what nobody is at."""

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from training.errors import BusyError, StoppedError

_POLL_S = 1.0

Job = TypeVar("Job")


def take_turns(
    jobs: Sequence[Job], do: Callable[[Job], object], should_stop: Callable[[], bool]
) -> None:
    """Do every job; one that another process is at is looked at again when the others are done.

    So a process ends when all jobs are done, and takes up what a dead one left. `do` must be quick
    about a job that is done already.

    Raises:
        StoppedError: `should_stop` said so while others were at all that is left.
    """
    waiting = list(jobs)
    while waiting:
        busy = []
        for job in waiting:
            try:
                do(job)
            except BusyError:
                busy.append(job)
        if len(busy) == len(waiting):
            if should_stop():
                raise StoppedError("stopped while others train; the same command goes on")
            time.sleep(_POLL_S)
        waiting = busy
