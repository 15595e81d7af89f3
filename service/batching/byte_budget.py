"""The budget of bytes: messages are bounded from before they are read until they are answered.

gRPC tells the length of a message only once it is read, so until then it counts as the longest.

unary call ─► reading: waits a second at most ─► read ─► admit ─► answered
stream ─────► wait_for_bulk ─► read ─► admit_when_free ─► answered
HTTP ───────► take: a body says how long it is ─► read ─► admit ─► answered

A caller that sends nothing holds its part of the budget, too. While others wait, a message that has
not come after `SURE_S` is given up, the oldest first. Connections are served in rotation, so one
with a thousand calls waits longer than one with a single call.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from time import monotonic
from typing import TypeVar

from service.batching.held import Held
from service.batching.priority_queue import Priority
from service.errors import OverloadedError
from service.observability.metrics import Metrics

T = TypeVar("T")

BULK_SHARE = 0.75
"""The part of the bytes that bulk may fill: interactive calls always find the rest."""

WAIT_S = 1.0
"""How long a call waits to be read; then it is refused."""

SURE_S = 0.5
"""How long a message may take to come while others wait."""

MESSAGE_S = 30.0
"""How long a message may take while nobody waits."""


class ByteBudget:
    """Counts the bytes of messages in the server, and refuses what is too much."""

    def __init__(self, most: int, metrics: Metrics, *, largest: int = 16 * 2**20) -> None:
        """Start with nothing.

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
        self._bulk_waiters: deque[asyncio.Future[None]] = deque()
        self._queues: dict[str, deque[asyncio.Future[None]]] = {}
        self._limits: dict[asyncio.Timeout, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def read(self, peer: str, message: Callable[[], Awaitable[T]]) -> T:
        """Read one message of unknown length, and count it meanwhile.

        Args:
            peer: The connection that it comes by.
            message: Reads it.

        Raises:
            OverloadedError: It could not be read in time, or did not come in time.
        """
        if self._queues or not self._fits(self._unread):
            await self._wait(peer)
        else:
            self._reading += self._unread
        # One timer watches all messages: to set and cancel one for each costs more than to count.
        limit = asyncio.timeout(None)
        try:
            async with limit:
                self._limits[limit] = monotonic()
                if self._timer is None:
                    self._cut_off()
                return await message()
        except TimeoutError:
            self._metrics.rejected_images.labels("message_slow").inc()
            raise OverloadedError(
                f"the message did not come within {SURE_S:g} s while others wait, or within"
                f" {MESSAGE_S:g} s; send it at once"
            ) from None
        finally:
            self._limits.pop(limit, None)
            self._reading -= self._unread
            self._wake_soon()

    @contextmanager
    def take(self, count: int) -> Iterator[None]:
        """Count `count` bytes while they are read.

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
            self._wake_soon()

    def admit(self, count: int, *, images: int, priority: Priority = Priority.INTERACTIVE) -> Held:
        """Count `count` bytes of `images` images as admitted.

        Raises:
            OverloadedError: They do not fit.
        """
        if not self._fits(count, priority):
            raise self._refusal(count, images=images)
        self._count(count, priority)
        return Held(self._count, -count, priority)

    @asynccontextmanager
    async def admit_when_free(self, count: int, *, priority: Priority) -> AsyncIterator[None]:
        """Admit as `admit` does, but wait until the bytes fit."""
        while not self._fits(count, priority):
            await wait_in(self._bulk_waiters)
        self._count(count, priority)
        try:
            yield
        finally:
            self._count(-count, priority)

    async def wait_for_bulk(self) -> None:
        """Wait until another message of bulk fits, and none that was read before waits."""
        while self._bulk_waiters or not self._fits(self._unread, Priority.BULK):
            await wait_in(self._bulk_waiters)

    def _fits(self, count: int, priority: Priority = Priority.INTERACTIVE) -> bool:
        # A message above the limit is admitted alone; the limit on messages bounds it.
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

    async def _wait(self, peer: str) -> None:
        """Wait until one message of unknown length fits, and count it."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queues.setdefault(peer, deque()).append(waiter)
        self._cut_off()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(WAIT_S):
                    await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled():  # it was admitted as the caller left
                self._reading -= self._unread
                self._wake()
            raise
        finally:
            if waiter.cancelled():
                self._forget(peer, waiter)
        if waiter.cancelled():
            raise self._refusal(self._unread, images=1)

    def _forget(self, peer: str, waiter: asyncio.Future[None]) -> None:
        if queue := self._queues.get(peer):
            with suppress(ValueError):
                queue.remove(waiter)
            if not queue:
                del self._queues[peer]

    def _wake(self) -> None:
        """Admit waiting messages that fit, one of each connection at a time; then let bulk try."""
        while self._queues and self._fits(self._unread):
            peer = next(iter(self._queues))
            queue = self._queues.pop(peer)
            waiter = queue.popleft()
            if queue:
                self._queues[peer] = queue
            if not waiter.done():
                self._reading += self._unread
                waiter.set_result(None)
        wake_all(self._bulk_waiters)

    def _wake_soon(self) -> None:
        """Wake those that wait, after the images of a message that was read could be admitted."""
        if self._queues or self._bulk_waiters:
            asyncio.get_running_loop().call_soon(self._wake)

    def _cut_off(self) -> None:
        """Give up messages that are late, and set a timer for the next one."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting = sum(map(len, self._queues.values()))
        loop = asyncio.get_running_loop()
        for number, (limit, start_s) in enumerate(list(self._limits.items())):
            most_s = SURE_S if number < waiting else MESSAGE_S
            if (left_s := start_s + most_s - monotonic()) > 0:
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
