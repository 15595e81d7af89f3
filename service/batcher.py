"""Batches across callers: many small calls become few runs of the model.

    admit(n) ── OverloadedError when full
       │  (the caller decodes)
    submit(images) ─► waiting, in order ─► batch ─► predict, in a worker thread ─► one row each

A batch leaves as soon as a worker is free and nothing else runs; beside a running one it waits
until it is full, or until its first image has waited `max_delay_s`. So a lone caller never waits
for company that does not come. Everything but `predict` happens on the event loop.

Shapes: N batch, H height, W width, C channels, K classes.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic

import numpy as np
from numpy.typing import NDArray

from service.errors import DeadlineError, OverloadedError
from service.metrics import Metrics

Predict = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""(N, H, W, C) → (N, K); called in a worker thread, by several at the same time."""


@dataclass(slots=True, eq=False)
class _Item:
    image: NDArray[np.uint8]
    """(H, W, C)."""
    row: asyncio.Future[NDArray[np.float32]]
    arrival_s: float
    deadline_s: float


class Batcher:
    """The queue before one model, and the workers behind it. Belongs to one event loop."""

    def __init__(
        self,
        predict: Predict,
        *,
        metrics: Metrics,
        max_batch: int = 32,
        max_delay_s: float = 0.001,
        queue_size: int = 512,
        workers: int = 1,
    ) -> None:
        self._predict = predict
        self._metrics = metrics
        self._max_batch = max_batch
        self._max_delay_s = max_delay_s
        self._queue_size = queue_size
        self._workers = workers
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="predict")
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Item] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._admitted = 0
        self._empty = asyncio.Event()
        self._empty.set()

    @contextmanager
    def admit(self, count: int) -> Iterator[None]:
        """Hold places for `count` images, from before they are decoded until they are answered.

        Raises:
            OverloadedError: There are not so many free places.
        """
        if self._admitted + count > self._queue_size:
            self._metrics.rejected_images.labels("queue_full").inc(count)
            raise OverloadedError(
                f"the server is full: {self._admitted} of {self._queue_size} images are being"
                f" worked on and {count} more do not fit; try again later"
            )
        self._count(count)
        try:
            yield
        finally:
            self._count(-count)

    async def submit(
        self, images_HWC: Sequence[NDArray[np.uint8]], *, deadline_s: float = math.inf
    ) -> list[NDArray[np.float32]]:
        """Return one row of probabilities, (K,), per image, in order.

        Cancelling drops the images that are not being computed yet.

        Args:
            images_HWC: Images of one size.
            deadline_s: When the answer loses its worth, on the clock of `time.monotonic`.

        Raises:
            DeadlineError: The deadline passed before the work began.
            Exception: Whatever `predict` raised.
        """
        now_s = monotonic()
        items = [
            _Item(image, self._loop.create_future(), now_s, deadline_s) for image in images_HWC
        ]
        self._waiting.extend(items)
        self._metrics.queued_images.inc(len(items))
        # One turn of the loop later, calls that arrived together are in the same batch.
        self._loop.call_soon(self._dispatch)
        try:
            return await asyncio.gather(*(item.row for item in items))
        finally:
            for item in items:  # when one failed, nobody waits for the others
                item.row.cancel()

    async def close(self) -> None:
        """Wait until every admitted image is answered, then end the workers."""
        await self._empty.wait()
        await asyncio.gather(*self._running)
        self._threads.shutdown()

    def _count(self, change: int) -> None:
        self._admitted += change
        self._metrics.admitted_images.inc(change)
        (self._empty.clear if self._admitted else self._empty.set)()

    def _dispatch(self) -> None:
        """Start every batch that may leave now, and set the clock for the next one."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        idle = not self._running
        while (free := self._workers - len(self._running)) and self._drop_dead():
            leaves_in_s = self._waiting[0].arrival_s + self._max_delay_s - monotonic()
            if not idle and len(self._waiting) < self._max_batch and leaves_in_s > 0:
                self._timer = self._loop.call_later(leaves_in_s, self._dispatch)
                return
            # Free workers share what waits: a lone big call uses every core.
            task = self._loop.create_task(
                self._run(self._take(math.ceil(len(self._waiting) / free)))
            )
            self._running.add(task)

    def _drop_dead(self) -> int:
        """Remove what nobody waits for any more; return how many images wait."""
        # A caller that gave up must not cost compute.
        now_s = monotonic()
        live: deque[_Item] = deque()
        for item in self._waiting:
            if item.row.done():
                self._metrics.rejected_images.labels("cancelled").inc()
            elif item.deadline_s <= now_s:
                self._metrics.rejected_images.labels("deadline").inc()
                item.row.set_exception(DeadlineError("the deadline passed in the queue"))
            else:
                live.append(item)
        self._metrics.queued_images.dec(len(self._waiting) - len(live))
        self._waiting = live
        return len(live)

    def _take(self, count: int) -> list[_Item]:
        batch = [self._waiting.popleft() for _ in range(min(count, self._max_batch))]
        now_s = monotonic()
        for item in batch:
            self._metrics.queue_seconds.observe(now_s - item.arrival_s)
        self._metrics.queued_images.dec(len(batch))
        self._metrics.batch_images.observe(len(batch))
        return batch

    async def _run(self, batch: list[_Item]) -> None:
        try:
            rows_NK = await self._loop.run_in_executor(
                self._threads, self._compute, [item.image for item in batch]
            )
        except Exception as error:
            for item in batch:
                if not item.row.done():
                    item.row.set_exception(error)
        else:
            for item, row_K in zip(batch, rows_NK, strict=True):
                if not item.row.done():
                    item.row.set_result(row_K)
        finally:
            self._running.discard(asyncio.current_task())
            self._dispatch()

    def _compute(self, images_HWC: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
        with self._metrics.compute_seconds.time():
            return self._predict(np.stack(images_HWC))
