"""Admission control: which calls are let in, which wait outside, and which are refused at once.

Work is bounded before it begins: here by images for each model, and in byte_budget.py by bytes for
the whole server. A call that would miss its deadline while it waits is refused on arrival, when it
has cost nothing yet.
"""

import asyncio
import math
from bisect import bisect
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic

from service.batching.byte_budget import wait_in, wake_all
from service.batching.held import Held
from service.batching.priority_queue import Priority
from service.batching.service_time import QueueTime
from service.config import MAX_IMAGES_PER_CALL
from service.errors import DeadlineError, OverloadedError
from service.observability.metrics import Metrics

BULK_SHARE = 0.75
"""The part of the queue that bulk may fill: interactive calls always find the rest."""

HEADROOM = 0.75
"""The part of a call's time that its wait may take, as estimated when it arrives. A shorter queue
costs no throughput as long as it is never empty."""

_KINDS = (2**17, 2**20)
"""Bytes per image at which a call is of the next kind: thumbnails, photos, originals."""


class Admission:
    """Counts the images that are in the server for one model, and refuses what is too much."""

    def __init__(
        self,
        metrics: Metrics,
        *,
        queue_size: int,
        max_batch: int,
        workers: int,
        seconds_per_image: float,
    ) -> None:
        """Start empty; the arguments are as in `batcher.Batcher`."""
        self._metrics = metrics
        self._queue_size = queue_size
        self._max_batch = max_batch
        self.workers = workers
        self.seconds_per_image = seconds_per_image
        self._queue_time = QueueTime(len(_KINDS) + 1, seconds_per_image / workers)
        self._admitted = dict.fromkeys(Priority, 0)
        self._by_kind: dict[Priority, list[float]] = {
            priority: [0] * (len(_KINDS) + 1) for priority in Priority
        }
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._holders = 0
        self._empty = asyncio.Event()
        self._empty.set()

    def keep_open(self) -> Held:
        """Keep the batcher open for a call that is not admitted yet."""
        self._holders += 1
        self._empty.clear()
        return Held(self._let_go)

    def refusal(
        self,
        count: int = 1,
        *,
        image_bytes: float = 0,
        priority: Priority = Priority.INTERACTIVE,
        deadline_s: float = math.inf,
    ) -> OverloadedError | None:
        """Return the error that `admit` would raise for `count` images now, or None.

        It takes microseconds, so it can be called before the message of a call is read. It is
        counted where a call is refused for it.
        """
        if not self._fits(count, priority):
            return OverloadedError(
                f"the server is full: {sum(self._admitted.values())} of {self._queue_size} images"
                f" are being worked on and {count} more do not fit; try again later",
                reason="queue_full",
                # By then about as many images have been answered as this call has.
                retry_after_s=max(self._expected_s(count, image_bytes), 0.05),
            )
        queued = self._num_before(priority) + count
        # A short queue always admits, and so does an idle server, however many images a call has:
        # work that is never done cannot show that it became faster.
        if queued <= max(2 * self.workers, count) or deadline_s == math.inf:
            return None
        bound_s = self._queue_time.bound_s(self._queue(count, image_bytes, priority))
        if bound_s <= HEADROOM * (deadline_s - monotonic()):
            return None
        return OverloadedError(
            f"{queued} images wait, and the deadline would pass before this call is answered;"
            " try again later, or allow more time",
            reason="deadline_too_near",
            retry_after_s=bound_s,
        )

    def admit(
        self,
        count: int,
        *,
        image_bytes: float = 0,
        priority: Priority = Priority.INTERACTIVE,
        deadline_s: float = math.inf,
    ) -> "_Admitted":
        """Count `count` images as admitted, from before they are decoded until they are answered.

        Args:
            count: How many they are.
            image_bytes: The bytes of one, which tell about how long it takes.
            priority: Which of them go first.
            deadline_s: When the answer becomes worthless, on the clock of `time.monotonic`.

        Raises:
            OverloadedError: They do not fit, or the queue is so long that the deadline would pass.
        """
        if refusal := self.refusal(
            count, image_bytes=image_bytes, priority=priority, deadline_s=deadline_s
        ):
            self._metrics.rejected_images.labels(refusal.reason).inc(count)
            raise refusal
        # By Little's law, the time in the server over the queue's length is the average time per
        # image, whatever the bottleneck is. A short queue shows mostly the latency of one run.
        is_long = self._num_before(priority) + count >= 2 * self.workers
        queue = self._queue(count, image_bytes, priority) if is_long else None
        self._count(count, priority, image_bytes)
        return _Admitted(self, (count, priority, image_bytes), queue)

    @asynccontextmanager
    async def admit_when_free(
        self, count: int, *, image_bytes: float = 0, priority: Priority
    ) -> AsyncIterator[None]:
        """Admit as `admit` does, but wait until the images fit."""
        while not self._fits(count, priority):
            await wait_in(self._waiters)
        self._count(count, priority, image_bytes)
        try:
            yield
        finally:
            self._count(-count, priority, image_bytes)

    def _let_go(self) -> None:
        self._holders -= 1
        self._count(0, Priority.INTERACTIVE)

    def _queue(self, count: int, image_bytes: float, priority: Priority) -> list[float]:
        """Return by kind what is answered before a call that comes now, itself included."""
        interactive, bulk = self._by_kind.values()
        if num_bulk := self._admitted[Priority.BULK]:
            before = self._num_before(priority) - self._admitted[Priority.INTERACTIVE]
            part = before / num_bulk
            queue = [one + part * other for one, other in zip(interactive, bulk, strict=True)]
        else:
            queue = list(interactive)
        queue[_kind(image_bytes)] += count
        return queue

    def _expected_s(self, count: int, image_bytes: float) -> float:
        queue: list[float] = [0] * (len(_KINDS) + 1)
        queue[_kind(image_bytes)] = count
        return self._queue_time.expected_s(queue)

    def _num_before(self, priority: Priority) -> int:
        """Return about how many images are answered before one that comes now."""
        interactive, bulk = self._admitted.values()
        if priority is Priority.BULK:
            return interactive + bulk
        # Bulk takes its share of the queue, and it may fill the running batches.
        return interactive + min(bulk, interactive // 7 + self._max_batch * self.workers)

    def _fits(self, count: int, priority: Priority) -> bool:
        if sum(self._admitted.values()) + count > self._queue_size:
            return False
        if priority is Priority.INTERACTIVE:
            return True
        most = max(MAX_IMAGES_PER_CALL, int(BULK_SHARE * self._queue_size))
        return self._admitted[Priority.BULK] + count <= most

    def _count(self, change: int, priority: Priority, image_bytes: float = 0) -> None:
        self._admitted[priority] += change
        self._by_kind[priority][_kind(image_bytes)] += change
        self._metrics.admitted_images.value += change
        busy = self._holders or sum(self._admitted.values())
        (self._empty.clear if busy else self._empty.set)()
        if change < 0:
            wake_all(self._waiters)


class _Admitted:
    """Images that count as admitted until it is left; a long queue then tells what one takes."""

    __slots__ = ("_admission", "_counted", "_queue", "_start_s")

    def __init__(
        self,
        admission: Admission,
        counted: tuple[int, Priority, float],
        queue: list[float] | None,
    ) -> None:
        self._admission = admission
        self._counted = counted
        self._queue = queue
        self._start_s = monotonic()

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if self._queue is not None:
            seconds, queue_time = monotonic() - self._start_s, self._admission._queue_time
            if error is None:
                queue_time.observe(seconds, self._queue)
            elif isinstance(error, DeadlineError | asyncio.CancelledError):
                queue_time.observe_at_least(seconds, self._queue)
        count, priority, image_bytes = self._counted
        self._admission._count(-count, priority, image_bytes)


def _kind(image_bytes: float) -> int:
    return bisect(_KINDS, image_bytes)
