"""A queue with two priorities: interactive work goes first, and bulk never starves."""

from collections import deque
from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import Generic, TypeVar

T = TypeVar("T")

BULK_EVERY = 8
"""While both wait, at least one item in so many is bulk."""


class Priority(IntEnum):
    """Which work goes first."""

    INTERACTIVE = 0
    BULK = 1


class PriorityQueue(Generic[T]):
    """Waiting items, by priority; first come, first served within one priority."""

    def __init__(self) -> None:
        self._interactive: deque[T] = deque()
        self._bulk: deque[T] = deque()
        self._since_bulk = 0

    def __len__(self) -> int:
        return len(self._interactive) + len(self._bulk)

    def __iter__(self) -> Iterator[T]:
        yield from self._interactive
        yield from self._bulk

    def push(self, item: T, priority: Priority) -> None:
        """Add an item behind the others of its priority."""
        (self._bulk if priority is Priority.BULK else self._interactive).append(item)

    def first(self) -> T:
        """Return the item that `pop` would take, without removing it.

        Raises:
            IndexError: Nothing waits.
        """
        return self._bulk[0] if self._bulk_is_next() else self._interactive[0]

    def pop(self) -> T:
        """Remove and return the next item.

        Raises:
            IndexError: Nothing waits.
        """
        if self._bulk_is_next():
            self._since_bulk = 0
            return self._bulk.popleft()
        item = self._interactive.popleft()
        # Counted only while bulk waits: an absent caller does not collect credit.
        self._since_bulk = self._since_bulk + 1 if self._bulk else 0
        return item

    def keep(self, wanted: Callable[[T], bool]) -> None:
        """Remove every item for which `wanted` is false."""
        self._interactive = deque(filter(wanted, self._interactive))
        self._bulk = deque(filter(wanted, self._bulk))

    def _bulk_is_next(self) -> bool:
        return bool(self._bulk) and (not self._interactive or self._since_bulk >= BULK_EVERY - 1)
