"""Two lines before one door: interactive work goes first, and bulk never starves."""

from collections import deque
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Generic, TypeVar

T = TypeVar("T")

BULK_EVERY = 8
"""Where both wait, at least every so many-th place is for bulk."""


class Priority(Enum):
    """Who goes first."""

    INTERACTIVE = "interactive"
    BULK = "bulk"


class Lines(Generic[T]):
    """What waits, by priority; within one priority first come, first served."""

    def __init__(self) -> None:
        self._interactive: deque[T] = deque()
        self._bulk: deque[T] = deque()
        self._passed = 0

    def __len__(self) -> int:
        return len(self._interactive) + len(self._bulk)

    def __iter__(self) -> Iterator[T]:
        yield from self._interactive
        yield from self._bulk

    def push(self, item: T, priority: Priority) -> None:
        """Let an item wait at the end of its line."""
        (self._bulk if priority is Priority.BULK else self._interactive).append(item)

    def first(self) -> T:
        """Return the item whose turn it is, and leave it where it is.

        Raises:
            IndexError: Nothing waits.
        """
        return self._bulk[0] if self._is_bulks_turn() else self._interactive[0]

    def pop(self) -> T:
        """Take the item whose turn it is.

        Raises:
            IndexError: Nothing waits.
        """
        if self._is_bulks_turn():
            self._passed = 0
            return self._bulk.popleft()
        item = self._interactive.popleft()
        # Counted only while bulk waits: it gains no right to go first by staying away.
        self._passed = self._passed + 1 if self._bulk else 0
        return item

    def _is_bulks_turn(self) -> bool:
        return bool(self._bulk) and (not self._interactive or self._passed >= BULK_EVERY - 1)

    def keep(self, wanted: Callable[[T], bool]) -> None:
        """Drop what is not wanted any more."""
        self._interactive = deque(filter(wanted, self._interactive))
        self._bulk = deque(filter(wanted, self._bulk))
