"""The memory that decoders may take together, granted before anything is decoded.

    estimate ─► hold ── in turn, once it is free ─► decode ─► given back
                 └─ more than there is at all: ImageError, at once

What takes little is not counted: it is bounded by the number of threads (`SMALL_BYTES` each).
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from machine import CGROUP, control_groups
from service.errors import ImageError

SMALL_BYTES = 8 * 2**20
"""What a decode may take without being counted: a phone's usual photo takes half of it."""

HELPER_BYTES = 64 * 2**20
"""What a helper process takes beside its picture: the interpreter, numpy and Pillow (56 MB)."""

_SHARE = 4
"""The part of the memory that decoders get unless they are told otherwise: one in so many."""

_MIB = 2**20


class NoRoomNow(Exception):  # noqa: N818 - no error: the picture's turn comes later
    """A decode would have to wait for its memory, and was told not to."""

    def __init__(self, num_bytes: int) -> None:
        """Say how much was wanted."""
        super().__init__(f"{num_bytes} bytes are not free now")
        self.num_bytes = num_bytes


class Budget:
    """A number of bytes that threads hold parts of; those that wait are served in their order."""

    def __init__(
        self, most_bytes: int, *, alone: tuple[int, AbstractContextManager[object]] | None = None
    ) -> None:
        """Start with all of it free.

        Args:
            most_bytes: All there is.
            alone: More bytes than that, and what is entered around a single picture that takes
                more than `most_bytes`: processes that share a machine let one at a time have it.
        """
        self._most_bytes = most_bytes
        self._alone_bytes, self._alone = alone or (most_bytes, nullcontext())
        self._free = most_bytes
        self._queue: deque[object] = deque()
        self._changed = threading.Condition()
        self.closed = False
        """Whether those that do not wait get nothing, since others have waited for longer."""

    @contextmanager
    def hold(
        self, num_bytes: int, refusal: Callable[[int], str], *, waits: bool = True
    ) -> Iterator[None]:
        """Hold so many bytes while a picture is decoded.

        Args:
            num_bytes: What decoding takes at its highest.
            refusal: Called with all that there is, in bytes, where the picture takes more; what
                it returns is the error.
            waits: Whether to wait for what is not free now.

        Raises:
            ImageError: It takes more than there is.
            NoRoomNow: It is not free now, and is not waited for.
        """
        if num_bytes > self._alone_bytes:
            raise ImageError(refusal(self._alone_bytes), kind="too_much_memory")
        if num_bytes > self._most_bytes:
            with self._alone:
                yield
            return
        self._take(num_bytes, waits)
        try:
            yield
        finally:
            with self._changed:
                self._free += num_bytes
                self._changed.notify_all()

    def fits(self, num_bytes: int) -> bool:
        """Return whether so many bytes are free now."""
        with self._changed:
            return not self._queue and num_bytes <= self._free

    def _take(self, num_bytes: int, waits: bool) -> None:
        with self._changed:
            if not waits and (self.closed or self._queue or num_bytes > self._free):
                raise NoRoomNow(num_bytes)
            ticket = object()
            self._queue.append(ticket)
            while self._queue[0] is not ticket or num_bytes > self._free:
                self._changed.wait()
            self._queue.popleft()
            self._free -= num_bytes
            # What is left may do for the next one.
            self._changed.notify_all()


def mib(num_bytes: int) -> str:
    """Return bytes for people, in MiB."""
    return f"{-(-num_bytes // _MIB)} MiB"


def default_bytes() -> int:
    """Return what decoders get unless they are told otherwise: a quarter of the memory."""
    return memory_bytes() // _SHARE


def memory_bytes() -> int:
    """Return how much memory this process may use: the machine's, or its control group's limit."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *_limits()])


def _limits() -> Iterator[int]:
    """Yield the limits of the control groups around this process, of version 2 or 1."""
    for group in control_groups("memory"):
        for file in (group / "memory.max", "memory" / group / "memory.limit_in_bytes"):
            try:
                yield int((CGROUP / file).read_text())
            except (OSError, ValueError):  # not there, or "max"
                continue


_process: Budget | None = None


def of_process() -> Budget:
    """Return the budget of whoever brings none of their own: training and offline work."""
    global _process
    if _process is None:
        _process = Budget(default_bytes())
    return _process


def share(processes: int, lock: AbstractContextManager[object]) -> None:
    """Make this process one of several that decode: each has a part, and one at a time more.

    Args:
        processes: How many there are.
        lock: One that all of them share.
    """
    global _process
    most = default_bytes()
    _process = Budget(max(most // processes, 1), alone=(most, lock))
