"""Trainings as child processes, and tasks that wait for them.

If a training crashes (out of memory, a driver fault), its task fails and the flow lives on. If the
flow is stopped, the training saves a checkpoint first.
"""

import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import IO, Any, cast

from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger

from flows.prefect_setup.survival import gpu, holding
from terminal import UserError
from training.errors import ReportError

_STOP_S = 25.0
"""Prefect kills a cancelled run 30 s after SIGTERM; a checkpoint is written well within that."""


class _Children:
    """The child processes of one flow; after `stop`, no more may start."""

    def __init__(self) -> None:
        self.stopped = False
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()

    @contextmanager
    def start(self, *arguments: Any, **settings: Any) -> Iterator[subprocess.Popen[str]]:
        with self._lock:
            if self.stopped:
                raise RuntimeError("the flow was stopped; the run can be resumed")
            process = subprocess.Popen(*arguments, **settings)
            self._running.add(process)
        try:
            yield process
        finally:
            with self._lock:
                self._running.remove(process)

    def stop(self) -> None:
        with self._lock:
            self.stopped = True
            for process in self._running:
                process.terminate()


_children: ContextVar[_Children] = ContextVar("children", default=_Children())  # noqa: B039


@contextmanager
def stopping_children() -> Iterator[None]:
    """Stop the children of tasks in threads when an exception, such as a cancellation, leaves.

    Python raises a signal in the main thread only; the other threads wait for their children.
    """
    children = _Children()
    token = _children.set(children)
    try:
        yield
    except BaseException:
        children.stop()
        raise
    finally:
        _children.reset(token)


def died(task: Any, task_run: Any, state: State[Any]) -> bool:  # noqa: ARG001
    """Return whether a task may be retried: after a kill or a crash, not after a `UserError`.

    A resumed run may get past a crash; a `UserError` needs a person. Nor is a stopped flow retried.
    """
    if _children.get().stopped:
        return False
    try:
        state.result()
    except UserError:
        return False
    except Exception:
        return True
    return False


def refused(task: Any, task_run: Any, state: State[Any]) -> bool:  # noqa: ARG001
    """Return whether the system refused something: a full disk, a network drive that was away."""
    try:
        state.result()
    except OSError:
        return True
    except Exception:
        return False
    return False


def run_child(arguments: list[str]) -> Any:
    """Run Python as a child that holds its run directory, if it names one, and the GPU.

    It never outlives this process by long. Returns what it prints as JSON.

    Raises:
        UserError: It refused or failed; the message is its last line.
        RuntimeError: It died or was stopped.
    """
    say = get_run_logger().info
    run = arguments[arguments.index("--run") + 1] if "--run" in arguments else None
    # A run's name may hold any character; the lock's file name may not.
    name = run and f"run-{hashlib.sha256(run.encode()).hexdigest()[:16]}"
    with holding(name, say) as its, holding(gpu(), say) as gpus:
        return _run(arguments, (*its, *gpus))


def _run(arguments: list[str], locks: tuple[int, ...]) -> Any:
    logger = get_run_logger()
    on_terminal = sys.stderr.isatty()
    last_line = ""
    outputs: list[str] = []
    with _children.get().start(
        [sys.executable, *arguments, "--json", "--stop-with-parent"],
        # The child watches this pipe: it ends when we do, also when we are killed with SIGKILL.
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # On a terminal the child draws its own progress bar; elsewhere its lines go to the log.
        stderr=None if on_terminal else subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
        pass_fds=locks,
        # We pass signals on ourselves. Sent to the whole group, a second one would kill the child
        # while it saves.
        start_new_session=not on_terminal,
    ) as process:
        # Both pipes are read at once: the child would stand still at one that is full.
        reader = threading.Thread(
            target=_read, args=(cast("IO[str]", process.stdout), outputs), daemon=True
        )
        reader.start()
        try:
            for line in process.stderr or ():
                last_line = line.rstrip() or last_line
                logger.info(last_line)
            reader.join()
            code = process.wait()
        except BaseException:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_S)
            process.kill()
            raise
        finally:
            # The reader closes its own: closing what another thread reads may wait for ever.
            for pipe in (process.stdin, process.stderr):
                if pipe:
                    pipe.close()
    if code == ReportError.exit_code:
        # All is trained, and a night goes on; the report can be made by hand.
        logger.error(last_line)
    elif code not in (0, UserError.exit_code):
        raise RuntimeError(f"training ended with exit code {code}; the run can be resumed")
    elif code != 0:
        reason = last_line.removeprefix("error: ") if not on_terminal else ""
        raise UserError(reason or f"training ended with exit code {code}")
    return json.loads(outputs[0])


def _read(pipe: IO[str], outputs: list[str]) -> None:
    with pipe:
        outputs.append(pipe.read())
