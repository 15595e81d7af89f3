"""A Prefect worker for containers: told to stop, it lets a training run save a checkpoint first.

    python -m flows.worker --pool hansang          arguments of `prefect worker start`

A container ends with its first process, and the system kills whatever else still runs in it. Here
the first process waits: SIGTERM goes to the worker and the flows that it runs, each flow stops its
training, which saves, and only when no process is left does this one end.
"""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_TRAINING = b"\0-m\0training\0"
"""A training process is stopped by its flow, and again told it would take it for a hurry."""


def run(command: Sequence[str]) -> int:
    """Run a worker until it and all that it began have ended; return its exit code."""
    # What loses its parent becomes our child, as it would for the first process of a container.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    worker = subprocess.Popen(command)

    def stop(number: int, _: Any) -> None:
        for pid in _descendants(os.getpid()):
            if _TRAINING not in _command(pid):
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    continue

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    code = 0
    while True:
        try:
            pid, status = os.wait()
        except ChildProcessError:
            return code
        if pid == worker.pid:
            code = os.waitstatus_to_exitcode(status)


def _descendants(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # The name, in parentheses, may hold spaces and parentheses itself.
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        children.setdefault(parent, []).append(int(folder.name))
    found: list[int] = []
    waiting = [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


if __name__ == "__main__":
    code = run([sys.executable, "-m", "prefect", "worker", "start", *sys.argv[1:]])
    sys.exit(0 if code in (-signal.SIGTERM, 128 + signal.SIGTERM) else code)
