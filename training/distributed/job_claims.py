"""Jobs that several processes share: each process claims a job that no other process holds."""

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from training.errors import BusyError, StoppedError

_POLL_S = 1.0

Job = TypeVar("Job")


def run_jobs(
    jobs: Sequence[Job], run: Callable[[Job], object], should_stop: Callable[[], bool]
) -> None:
    """Run every job; return when all are finished, here or in other processes.

    `run` claims a job, and raises BusyError where another process holds it. Such a job is tried
    again once the others are done, so a job that a killed process left is finished here. `run`
    must therefore return quickly for a job that is finished.

    Raises:
        StoppedError: `should_stop` said so while other processes held all that was left.
    """
    waiting = list(jobs)
    while waiting:
        held = []
        for job in waiting:
            try:
                run(job)
            except BusyError:
                held.append(job)
        if len(held) == len(waiting):
            if should_stop():
                raise StoppedError("stopped while others train; the same command goes on")
            time.sleep(_POLL_S)
        waiting = held
