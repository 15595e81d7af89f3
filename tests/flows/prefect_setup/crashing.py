"""A flow that dies each time at the same place, as a driver's fault or a lack of memory would."""

import os
import signal
from pathlib import Path

from prefect import flow


@flow(name="crash")
def crash(log: str) -> None:
    """Write a line down and die."""
    with Path(log).open("a") as file:
        file.write("begun\n")
    os.kill(os.getpid(), signal.SIGKILL)
