"""Batches across callers: many small calls become few runs of the model.

    admit(n) ── OverloadedError when full, or too late for the deadline
       │  (the caller decodes)
    submit(images) ─► lines, by priority ─► batch ─► predict, in a worker thread ─► one row each

A batch leaves as soon as a worker is free and nothing else runs; beside a running one it waits
until it is full, or until an image has waited for a quarter of what such a batch takes, and
`max_delay_s` at most. So a lone caller never waits for company that does not come, and under load,
where waiting costs a small part of what the model takes anyway, batches fill: each run reads all of
the weights once, however many images it has. Everything but `predict` happens on the event loop.

Shapes: N batch, H height, W width, C channels, K classes.
"""

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from time import monotonic

import numpy as np
from numpy.typing import NDArray

from service.config import MAX_IMAGES_PER_CALL
from service.errors import DeadlineError, OverloadedError
from service.lines import Lines, Priority
from service.metrics import Metrics
from service.pace import Pace
from service.tracing import stage

Predict = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""(N, H, W, C) → (N, K); called in a worker thread, by several at the same time."""

BULK_SHARE = 0.75
"""The part of the places that bulk may hold: somebody who waits always finds one."""

DELAY = 0.25
"""The part of its own run that a batch waits for company, beside a running one."""

HEADROOM = 0.75
"""The part of a call's time that its wait may take, as far as is foreseen when it is let in. A line
loses nothing by being shorter, as long as it is never empty."""


@dataclass(slots=True, eq=False)
class _Item:
    image: NDArray[np.uint8]
    """(H, W, C)."""
    row: asyncio.Future[NDArray[np.float32]]
    arrival_s: float
    deadline_s: float
    start_s: float = 0.0
    end_s: float = 0.0


@dataclass(slots=True)
class Runs:
    """What the model has done so far."""

    count: int = 0
    images: int = 0
    failed_in_a_row: int = 0


class Batcher:
    """The queue before one model, and the workers behind it. Belongs to one event loop."""

    def __init__(
        self,
        predict: Predict,
        *,
        metrics: Metrics,
        max_batch: int = 32,
        max_delay_s: float = 0.025,
        queue_size: int = 512,
        workers: int = 1,
        pace_s: float = 0.0,
        failed: Callable[[], None] | None = None,
    ) -> None:
        """Start without threads; they come with the work.

        Args:
            predict: The model.
            metrics: Where to count.
            max_batch: Most images in a run.
            max_delay_s: Longest wait for a fuller batch, beside a running one.
            queue_size: Most images admitted at a time.
            workers: Runs at a time.
            pace_s: What an image takes in a run, as a first guess in seconds.
            failed: Called, on the loop, after each run that raised.
        """
        self.runs = Runs()
        self._predict = predict
        self._metrics = metrics
        self._max_batch = max_batch
        self._max_delay_s = max_delay_s
        self._queue_size = queue_size
        self._workers = workers
        self._failed = failed or _nothing
        self._run_pace = Pace(pace_s)
        self._pace = Pace(pace_s / workers)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="predict")
        self._loop = asyncio.get_running_loop()
        self._waiting: Lines[_Item] = Lines()
        self._running: dict[asyncio.Task[None], float] = {}
        self._last_batch = 0
        self._timer: asyncio.TimerHandle | None = None
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
        if line <= 2 * self._workers or deadline_s == math.inf:
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
        long = line >= 2 * self._workers
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
            turn = self._loop.create_future()
            self._wanting.append(turn)
            await turn
        self._count(count, priority)
        try:
            yield
        finally:
            self._count(-count, priority)

    async def submit(
        self,
        images_HWC: Sequence[NDArray[np.uint8]],
        *,
        deadline_s: float = math.inf,
        priority: Priority = Priority.INTERACTIVE,
    ) -> list[NDArray[np.float32]]:
        """Return one row of probabilities, (K,), per image, in order.

        Cancelling drops the images that are not being computed yet.

        Args:
            images_HWC: Images of one size.
            deadline_s: When the answer loses its worth, on the clock of `time.monotonic`.
            priority: Which line they wait in.

        Raises:
            DeadlineError: The deadline could not be kept any more when their turn came.
            Exception: Whatever `predict` raised.
        """
        now_s = monotonic()
        items = [
            _Item(image, self._loop.create_future(), now_s, deadline_s) for image in images_HWC
        ]
        for item in items:
            self._waiting.push(item, priority)
        self._metrics.queued_images.inc(len(items))
        # One turn of the loop later, calls that arrived together are in the same batch.
        self._loop.call_soon(self._dispatch)
        try:
            rows = await asyncio.gather(*(item.row for item in items))
        finally:
            for item in items:  # when one failed, nobody waits for the others
                item.row.cancel()
        if items:
            last = max(items, key=lambda item: item.end_s)
            stage("queue", last.arrival_s, last.start_s)
            stage("compute", last.start_s, last.end_s)
        return rows

    def longest_run_s(self) -> float:
        """Return for how long the oldest run has been running; 0 when nothing runs."""
        started_s = min((at for at in self._running.values() if at), default=None)
        return 0.0 if started_s is None else monotonic() - started_s

    async def close(self) -> None:
        """Wait until nothing is held and every admitted image is answered, then end the workers."""
        await self._empty.wait()
        await asyncio.gather(*self._running)
        self._threads.shutdown()
        # Who made the batcher is let go of: a ring of references would hold the session's memory
        # until the garbage collector comes, which may be hours later.
        self._failed = _nothing

    def _ahead(self, priority: Priority) -> int:
        """Return how many images are answered before one that comes now, about."""
        interactive, bulk = self._admitted.values()
        if priority is Priority.BULK:
            return interactive + bulk
        # Bulk gets its share of the places, and what it has in the running batches.
        return interactive + min(bulk, interactive // 7 + self._max_batch * self._workers)

    def _has_room(self, count: int, priority: Priority) -> bool:
        if sum(self._admitted.values()) + count > self._queue_size:
            return False
        if priority is Priority.INTERACTIVE:
            return True
        most = max(MAX_IMAGES_PER_CALL, int(BULK_SHARE * self._queue_size))
        return self._admitted[Priority.BULK] + count <= most

    def _count(self, change: int, priority: Priority) -> None:
        self._admitted[priority] += change
        self._metrics.admitted_images.inc(change)
        busy = self._holders or sum(self._admitted.values())
        (self._empty.clear if busy else self._empty.set)()
        if change < 0:
            # All look for themselves, in the order in which they came.
            while self._wanting:
                turn = self._wanting.popleft()
                if not turn.done():
                    turn.set_result(None)

    def _dispatch(self) -> None:
        """Start every batch that may leave now, and set the clock for the next one."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        idle = not self._running
        while (free := self._workers - len(self._running)) and self._drop_dead():
            first_s = min(item.arrival_s for item in self._waiting)
            leaves_in_s = first_s + self._delay_s() - monotonic()
            if not idle and len(self._waiting) < self._max_batch and leaves_in_s > 0:
                self._timer = self._loop.call_later(leaves_in_s, self._dispatch)
                return
            # Free workers share what waits: a lone big call uses every core.
            task = self._loop.create_task(
                self._run(self._take(math.ceil(len(self._waiting) / free)))
            )
            self._running[task] = monotonic()

    def _delay_s(self) -> float:
        """Return how long the first image waits for company now: no longer than it is worth."""
        run_s = self._run_pace.expected_s(max(len(self._waiting), self._last_batch))
        return min(self._max_delay_s, DELAY * run_s) if run_s else self._max_delay_s

    def _drop_dead(self) -> int:
        """Remove what nobody waits for, or would wait for in vain; return how many wait."""
        before = len(self._waiting)
        # What would end too late, even if it were computed alone and now, is not begun.
        ends_s = monotonic() + self._run_pace.expected_s(1)
        late = 0

        def live(item: _Item) -> bool:
            nonlocal late
            # A caller that gave up must not cost compute.
            if item.row.done():
                self._metrics.rejected_images.labels("cancelled").inc()
                return False
            if item.deadline_s <= ends_s:
                late += 1
                self._metrics.rejected_images.labels("deadline").inc()
                item.row.set_exception(DeadlineError("the deadline passed in the queue"))
                return False
            return True

        self._waiting.keep(live)
        if late and late == before:
            self._run_pace.relax()
        self._metrics.queued_images.dec(before - len(self._waiting))
        return len(self._waiting)

    def _take(self, count: int) -> list[_Item]:
        now_s, until_s = monotonic(), math.inf
        batch: list[_Item] = []
        while self._waiting and len(batch) < min(count, self._max_batch):
            # A batch is only as large as the nearest deadline in it allows.
            until_s = min(until_s, self._waiting.first().deadline_s)
            if batch and now_s + self._run_pace.bound_s(len(batch) + 1) > until_s:
                break
            batch.append(self._waiting.pop())
        self._last_batch = len(batch)
        for item in batch:
            item.start_s = now_s
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
            self.runs.failed_in_a_row += 1
            self._failed()
            for item in batch:
                if not item.row.done():
                    item.row.set_exception(error)
        else:
            self.runs.count += 1
            self.runs.images += len(batch)
            self.runs.failed_in_a_row = 0
            now_s = monotonic()
            self._run_pace.observe(now_s - batch[0].start_s, len(batch))
            for item, row_K in zip(batch, rows_NK, strict=True):
                item.end_s = now_s
                if not item.row.done():
                    item.row.set_result(row_K)
        finally:
            if (task := asyncio.current_task()) is not None:
                self._running.pop(task, None)
            self._dispatch()

    def _compute(self, images_HWC: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
        with self._metrics.compute_seconds.time():
            return self._predict(np.stack(images_HWC))


def _nothing() -> None:
    """Tell nobody."""
