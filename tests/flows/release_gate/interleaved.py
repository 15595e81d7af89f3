"""Processes that are interleaved, and killed, at every operation of a file system or a bucket.

Each is a greenlet that runs real code. Before and after each operation that others can see it
stops, and whoever drives it says who goes on. One that is killed changes nothing any more, not even
while its blocks are left: as after SIGKILL.
"""

import builtins
import fcntl
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from greenlet import getcurrent, greenlet

_CHANGES = ("mkdir", "rename", "replace", "unlink", "remove", "rmdir", "link")


class KilledError(BaseException):
    """The process is not there any more."""


class Process:
    """One process.

    Attributes:
        result: What it returned.
        error: What it raised, unless it was killed.
        killed: Whether it was killed.
        fate: What becomes of its next request, for whoever answers it.
    """

    def __init__(self, work: Callable[[], Any]) -> None:
        """Begin when it is first let on."""
        self.result: Any = None
        self.error: Exception | None = None
        self.killed = False
        self.fate = ""
        self._work = work
        self._greenlet = greenlet(self._run)

    @property
    def ended(self) -> bool:
        return bool(self._greenlet.dead)

    def go_on(self, steps: int = 10**6) -> None:
        """Let it do so many operations, or end."""
        while steps and not self.ended:
            self._greenlet.parent = getcurrent()
            self._greenlet.switch()
            steps -= 1

    def kill(self) -> None:
        self.killed = True
        self.go_on()

    def _run(self) -> None:
        _all[self._greenlet] = self
        try:
            self.result = self._work()
        except Exception as error:
            self.error = error
        except KilledError:
            pass
        finally:
            del _all[self._greenlet]


_all: dict[Any, Process] = {}


def current() -> Process | None:
    """Return the process that runs, if it is one of these."""
    return _all.get(getcurrent())


def step() -> None:
    """Stop the current process, if it is one of these, until it is let on.

    Raises:
        KilledError: It was killed meanwhile.
    """
    me = current()
    if me is None:
        return
    if not me.killed:
        me._greenlet.parent.switch()
    if me.killed:
        raise KilledError


@contextmanager
def interleaved() -> Iterator[None]:
    """Have the operations of the file system stop the processes until the block ends."""
    before = {name: getattr(os, name) for name in _CHANGES}
    opened, locked, synced = io.open, fcntl.flock, os.fsync

    def change(inner: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*given: Any, **named: Any) -> Any:
            step()
            return inner(*given, **named)

        return changed

    def open_(file: Any, mode: str = "r", *given: Any, **named: Any) -> Any:
        step()
        found = opened(file, mode, *given, **named)
        if mode[0] in "wax":
            try:
                step()  # it is there by now, and has nothing in it
            except KilledError:
                found.close()
                raise
        return found

    def flock(file: Any, operation: int) -> None:
        while True:
            try:
                return locked(file, operation | fcntl.LOCK_NB)
            except BlockingIOError:
                step()

    for name, inner in before.items():
        setattr(os, name, change(inner))
    io.open = builtins.open = open_  # type: ignore[assignment]
    fcntl.flock, os.fsync = flock, lambda _: None  # type: ignore[assignment]
    try:
        yield
    finally:
        for name, inner in before.items():
            setattr(os, name, inner)
        io.open = builtins.open = opened
        fcntl.flock, os.fsync = locked, synced
