"""A Prefect worker for containers: told to stop, it lets a training run save a checkpoint first.

    python -m flows.worker --pool hansang          arguments of `prefect worker start`

A container ends with its first process, and the system kills whatever else still runs in it. Here
the first process waits: SIGTERM goes to the worker and the flows that it runs, each flow stops its
training, which saves. When no process is left it gives the runs back, to whatever worker comes
next, and ends.
"""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from flows.prefect_setup.pools import GPU_POOL, num_gpus
from flows.prefect_setup.survival import gpu_of_worker
from terminal import UserError

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_TRAINING = b"\0-m\0training\0"
"""In a training's command line. Its flow stops it; a second signal would make it skip saving."""

_RUN = b"PREFECT__FLOW_RUN_ID="


def run(command: Sequence[str]) -> int:
    """Run a worker until it and all that it began have ended; return its exit code."""
    # Orphans become our children, as they do for the first process of a container.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    worker = subprocess.Popen(command)
    stopped: set[UUID] = set()

    def stop(number: int, _: Any) -> None:
        for pid in _descendants(os.getpid()):
            stopped.update(_run_of(pid))
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
            if stopped:
                _give_back(stopped)
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


def _give_back(runs: set[UUID]) -> None:
    """Schedule the runs that were stopped, unless they have ended.

    Otherwise they stay Running until the server misses their heartbeats. A server that restarts in
    between also delays automations on events before its start by 15 minutes.
    """
    from prefect.client.orchestration import get_client
    from prefect.states import AwaitingRetry

    try:
        with get_client(sync_client=True) as client:
            for run in runs:
                found = client.read_flow_run(run)
                if found.state and found.state.is_running() and "hansang" in found.tags:
                    client.set_flow_run_state(run, AwaitingRetry(message="its worker was stopped"))
    except Exception as error:
        # The server finds the runs later, when it misses their heartbeats.
        print(f"cannot give back {len(runs)} runs: {error!r}", file=sys.stderr)


def _run_of(pid: int) -> list[UUID]:
    """Return the flow run that a process belongs to, if any."""
    settings = _read(pid, "environ").split(b"\0")
    return [UUID(each.removeprefix(_RUN).decode()) for each in settings if each.startswith(_RUN)]


def _command(pid: int) -> bytes:
    return _read(pid, "cmdline")


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def _make_up_for_the_latest(arguments: Sequence[str]) -> None:
    """Cancel what later runs of a schedule have overtaken, and say where that was asked."""
    from prefect.client.orchestration import get_client

    from flows.prefect_setup import address
    from flows.prefect_setup.late import cancel_superseded

    print(address.said(), flush=True)
    if "--pool" not in arguments[:-1]:
        return
    pool = arguments[arguments.index("--pool") + 1]
    try:
        with get_client(sync_client=True) as client:
            count = cancel_superseded(client, pool)
    except Exception as error:
        # The worker says itself, and tries again, if the server is away.
        print(f"cannot look for overtaken runs: {error!r}", file=sys.stderr)
        return
    print(f"pool {pool}: {count} overtaken runs cancelled", flush=True)


def main() -> int:
    """Run `prefect worker start` with the given arguments; return the exit code.

    A worker of the pool that trains on GPUs takes one GPU for itself, and one run at a time.
    """
    arguments, lock = sys.argv[1:], None
    if GPU_POOL in arguments:
        try:
            lock = gpu_of_worker(num_gpus())
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return UserError.exit_code
        if "--limit" not in arguments:
            arguments += ["--limit", "1"]
    _make_up_for_the_latest(arguments)
    code = run([sys.executable, "-m", "prefect", "worker", "start", *arguments])
    if lock is not None:
        lock.close()
    return 0 if code in (-signal.SIGTERM, 128 + signal.SIGTERM) else code
