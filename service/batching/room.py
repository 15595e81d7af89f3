"""Room for messages: bytes are bounded before they are read, and until their images are answered.

How long a message of gRPC is shows only once it is read, so until then it counts as the longest.

unary call ─► reading: waits for its turn, a second at most ─► read ─► admit ─► answered
stream ─────► wait_for_bulk ─► read ─► admit_when_free ─► answered
HTTP ───────► take: a body says how long it is ─► read ─► admit ─► answered

Who sends nothing holds a turn, too. While others wait, a message that is not there after `SURE_S`
is given up, the oldest first; and connections take turns, so that one with a thousand calls waits
longer than one with a single call.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from time import monotonic

from service.batching.priority_queue import Priority
from service.errors import OverloadedError
from service.observability.metrics import Metrics

BULK_SHARE = 0.75
"""The part of the bytes that bulk may fill: interactive calls always find the rest."""

WAIT_S = 1.0
"""How long a call waits for its turn to be read; then it is refused."""

SURE_S = 0.5
"""How long a message may take to come while others wait."""

MESSAGE_S = 30.0
"""How long it may take while nobody waits."""


class Room:
    """Counts the bytes that are in the server, and refuses what is too much."""

    def __init__(self, most: int, metrics: Metrics, *, largest: int = 16 * 2**20) -> None:
        """Begin empty.

        Args:
            most: Most bytes of messages being read, and of images being worked on, together.
            metrics: Where they are counted.
            largest: Most bytes of a message. At least four can be read at a time, so in all at most
                four of them are beyond `most`.
        """
        self._most = most
        self._most_bulk = int(BULK_SHARE * most)
        self._metrics = metrics
        self._unread = min(largest, most // 4)
        self._admitted = dict.fromkeys(Priority, 0)
        self._reading = 0
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._turns: dict[str, deque[asyncio.Future[None]]] = {}
        self._limits: dict[asyncio.Timeout, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def reading(self, peer: str) -> AsyncIterator[None]:
        """Hold room for one message while it is read.

        Args:
            peer: The connection that it comes by.

        Raises:
            OverloadedError: Its turn did not come in time, or the message did not.
        """
        if self._turns or not self._fits(self._unread):
            await self._turn(peer)
        else:
            self._reading += self._unread
        limit = asyncio.timeout(MESSAGE_S)
        try:
            async with limit:
                self._limits[limit] = monotonic()
                self._watch()
                yield
        except TimeoutError:
            self._metrics.rejected_images.labels("message_slow").inc()
            raise OverloadedError(
                f"the message did not come within {SURE_S:g} s while others wait, or within"
                f" {MESSAGE_S:g} s; send it at once"
            ) from None
        finally:
            self._limits.pop(limit, None)
            self._reading -= self._unread
            # Not before the images of this message are admitted into the room that it gives back.
            asyncio.get_running_loop().call_soon(self._wake)

    @contextmanager
    def take(self, count: int) -> Iterator[None]:
        """Hold `count` bytes while they are read.

        Raises:
            OverloadedError: They do not fit.
        """
        if not self._fits(count):
            raise self._refusal(count, images=1)
        self._reading += count
        try:
            yield
        finally:
            self._reading -= count
            asyncio.get_running_loop().call_soon(self._wake)

    @contextmanager
    def admit(
        self, count: int, *, images: int, priority: Priority = Priority.INTERACTIVE
    ) -> Iterator[None]:
        """Count `count` bytes of `images` images as admitted.

        Raises:
            OverloadedError: They do not fit.
        """
        if not self._fits(count, priority):
            raise self._refusal(count, images=images)
        self._count(count, priority)
        try:
            yield
        finally:
            self._count(-count, priority)

    @asynccontextmanager
    async def admit_when_free(self, count: int, *, priority: Priority) -> AsyncIterator[None]:
        """Admit as `admit` does, but wait until the bytes fit."""
        while not self._fits(count, priority):
            await wait_in(self._waiters)
        self._count(count, priority)
        try:
            yield
        finally:
            self._count(-count, priority)

    async def wait_for_bulk(self) -> None:
        """Wait until bulk has room for another message, and nothing that is read waits for it."""
        while self._waiters or not self._fits(self._unread, Priority.BULK):
            await wait_in(self._waiters)

    def _fits(self, count: int, priority: Priority = Priority.INTERACTIVE) -> bool:
        # What is above the limit is let in alone; the limit on messages bounds it.
        interactive = self._admitted[Priority.INTERACTIVE] + self._reading
        bulk = self._admitted[Priority.BULK]
        if priority is Priority.BULK:
            return not bulk or (
                bulk + count <= self._most_bulk and interactive + bulk + count <= self._most
            )
        return not interactive or interactive + min(bulk, self._most_bulk) + count <= self._most

    def _refusal(self, count: int, *, images: int) -> OverloadedError:
        self._metrics.rejected_images.labels("bytes_full").inc(images)
        held = sum(self._admitted.values()) + self._reading
        return OverloadedError(
            f"the server is full: it holds {held} bytes of messages, and {count} more"
            f" are beyond its {self._most}; try again later",
            retry_after_s=0.1,
        )

    def _count(self, change: int, priority: Priority) -> None:
        self._admitted[priority] += change
        self._metrics.bytes_in_flight.value += change
        if change < 0:
            self._wake()

    async def _turn(self, peer: str) -> None:
        """Wait for room for one message, and take it."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._turns.setdefault(peer, deque()).append(turn)
        self._watch()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(WAIT_S):
                    await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it came as the caller left
                self._reading -= self._unread
                self._wake()
            raise
        finally:
            if turn.cancelled():
                self._forget(peer, turn)
        if turn.cancelled():
            raise self._refusal(self._unread, images=1)

    def _forget(self, peer: str, turn: asyncio.Future[None]) -> None:
        if turns := self._turns.get(peer):
            with suppress(ValueError):
                turns.remove(turn)
            if not turns:
                del self._turns[peer]

    def _wake(self) -> None:
        """Let those read that fit now, one of each connection in turn; then let bulk try again."""
        while self._turns and self._fits(self._unread):
            peer = next(iter(self._turns))
            turns = self._turns.pop(peer)
            turn = turns.popleft()
            if turns:
                self._turns[peer] = turns
            if not turn.done():
                self._reading += self._unread
                turn.set_result(None)
        wake_all(self._waiters)

    def _watch(self) -> None:
        if self._turns and self._timer is None:
            self._cut_off()

    def _cut_off(self) -> None:
        """Give up messages that are late while others wait, and look again when one will be."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting = sum(map(len, self._turns.values()))
        loop = asyncio.get_running_loop()
        for limit, start_s in list(self._limits.items())[:waiting]:
            if (left_s := start_s + SURE_S - monotonic()) > 0:
                self._timer = loop.call_later(left_s, self._cut_off)
                break
            del self._limits[limit]
            limit.reschedule(loop.time())


async def wait_in(waiters: deque[asyncio.Future[None]]) -> None:
    """Wait until `wake_all`."""
    waiter = asyncio.get_running_loop().create_future()
    waiters.append(waiter)
    await waiter


def wake_all(waiters: deque[asyncio.Future[None]]) -> None:
    """Let every waiter check again, in the order in which they came."""
    while waiters:
        waiter = waiters.popleft()
        if not waiter.done():
            waiter.set_result(None)
