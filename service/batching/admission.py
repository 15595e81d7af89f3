"""The places before one model: who is let in, who waits outside, and who is refused at once.

Everything is bounded before any work is done. A call whose deadline would pass while it waits is
refused when it comes, as far as that can be foreseen: it costs nothing then.
"""

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from time import monotonic

from service.batching.priority_queue import Priority
from service.batching.service_time import Pace
from service.config import MAX_IMAGES_PER_CALL
from service.errors import DeadlineError, OverloadedError
from service.observability.metrics import Metrics

BULK_SHARE = 0.75
"""The part of the places that bulk may hold: somebody who waits always finds one."""

HEADROOM = 0.75
"""The part of a call's time that its wait may take, as far as is foreseen when it is let in. A line
loses nothing by being shorter, as long as it is never empty."""


class Places:
    """The images that are in the server for one model, and the most that may be."""

    def __init__(
        self, metrics: Metrics, *, queue_size: int, max_batch: int, workers: int, pace_s: float
    ) -> None:
        """Begin empty; the arguments are as in `batcher.Batcher`."""
        self._metrics = metrics
        self._queue_size = queue_size
        self._max_batch = max_batch
        self.workers = workers
        self.pace_s = pace_s
        self._pace = Pace(pace_s / workers)
        self._admitted = dict.fromkeys(Priority, 0)
        self._wanting: deque[asyncio.Future[None]] = deque()
        self._holders = 0
        self._empty = asyncio.Event()
        self._empty.set()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the batcher open, for a call that still waits to be admitted."""
        self._holders += 1
        self._empty.clear()
        try:
            yield
        finally:
            self._holders -= 1
            self._count(0, Priority.INTERACTIVE)

    def refusal(
        self,
        count: int = 1,
        *,
        priority: Priority = Priority.INTERACTIVE,
        deadline_s: float = math.inf,
    ) -> OverloadedError | None:
        """Return why `admit` would not let `count` images in now, and count them; None if it would.

        It costs microseconds, so that it can be asked before a call is even read.
        """
        if not self._has_room(count, priority):
            self._metrics.rejected_images.labels("queue_full").inc(count)
            return OverloadedError(
                f"the server is full: {sum(self._admitted.values())} of {self._queue_size} images"
                f" are being worked on and {count} more do not fit; try again later",
                # By then as many places as are wanted have become free.
                retry_after_s=max(self._pace.expected_s(count), 0.05),
            )
        line = self._ahead(priority) + count
        # A short line is always tried: what is never done cannot show that it has become faster.
        if line <= 2 * self.workers or deadline_s == math.inf:
            return None
        if self._pace.bound_s(line) <= HEADROOM * (deadline_s - monotonic()):
            return None
        self._metrics.rejected_images.labels("deadline_too_near").inc(count)
        return OverloadedError(
            f"{line} images wait, and the deadline would pass before this call is answered;"
            " try again later, or allow more time",
            retry_after_s=self._pace.bound_s(line),
        )

    @contextmanager
    def admit(
        self,
        count: int,
        *,
        priority: Priority = Priority.INTERACTIVE,
        deadline_s: float = math.inf,
    ) -> Iterator[None]:
        """Hold places for `count` images, from before they are decoded until they are answered.

        Raises:
            OverloadedError: There are not so many free places, or the line is so long that
                `deadline_s` (`time.monotonic`) would pass.
        """
        if refusal := self.refusal(count, priority=priority, deadline_s=deadline_s):
            raise refusal
        line = self._ahead(priority) + count
        now_s = monotonic()
        self._count(count, priority)
        # By Little's law the time in the server over the length of the line is, on average, what an
        # image takes, whatever is the bottleneck. Of short lines it is mostly the latency of a run.
        long = line >= 2 * self.workers
        try:
            yield
            if long:
                self._pace.observe(monotonic() - now_s, line)
        except (DeadlineError, asyncio.CancelledError):
            if long:
                self._pace.observe_at_least(monotonic() - now_s, line)
            raise
        finally:
            self._count(-count, priority)

    @asynccontextmanager
    async def admit_later(self, count: int, *, priority: Priority) -> AsyncIterator[None]:
        """Hold places as `admit` does, but wait until they are free."""
        while not self._has_room(count, priority):
            turn = asyncio.get_running_loop().create_future()
            self._wanting.append(turn)
            await turn
        self._count(count, priority)
        try:
            yield
        finally:
            self._count(-count, priority)

    def _ahead(self, priority: Priority) -> int:
        """Return how many images are answered before one that comes now, about."""
        interactive, bulk = self._admitted.values()
        if priority is Priority.BULK:
            return interactive + bulk
        # Bulk gets its share of the places, and what it has in the running batches.
        return interactive + min(bulk, interactive // 7 + self._max_batch * self.workers)

    def _has_room(self, count: int, priority: Priority) -> bool:
        if sum(self._admitted.values()) + count > self._queue_size:
            return False
        if priority is Priority.INTERACTIVE:
            return True
        most = max(MAX_IMAGES_PER_CALL, int(BULK_SHARE * self._queue_size))
        return self._admitted[Priority.BULK] + count <= most

    def _count(self, change: int, priority: Priority) -> None:
        self._admitted[priority] += change
        self._metrics.admitted_images.value += change
        busy = self._holders or sum(self._admitted.values())
        (self._empty.clear if busy else self._empty.set)()
        if change < 0:
            # All look for themselves, in the order in which they came.
            while self._wanting:
                turn = self._wanting.popleft()
                if not turn.done():
                    turn.set_result(None)
