"""Batches across callers: many small calls become few runs of the model.

    admit(n) ── OverloadedError when full, or too late for the deadline (places.py)
       │
    submit(images) ─► lines, by priority ─► batch ─► predict, in a worker thread ─► one row each

A free worker takes its share of all images that wait or are computed, and not more: one that took
all that wait would leave the next one idle, and its callers would wait for the whole of it. As long
as less than a share waits it waits for company, until an image has waited for a quarter of what
such a batch takes, and `max_delay_s` at most. So a lone caller never waits for company that does
not come, and under load batches grow with it: each run reads all of the weights once, however many
images it has. Everything but `predict` happens on the event loop.

Small photos may be submitted as they came: on a CPU the thread that computes a batch decodes them
first. To hand each to another thread and back costs half as much as to decode it, and the cores are
busy either way.

Shapes: N batch, H height, W width, C channels, K classes.
"""

import asyncio
import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import monotonic

import numpy as np
from numpy.typing import NDArray

from service.batching.admission import Places
from service.batching.decoder import Pixels
from service.batching.priority_queue import Lines, Priority
from service.batching.service_time import Pace
from service.errors import DeadlineError, ServiceError
from service.observability.metrics import Metrics
from service.observability.tracing import Stages
from service.pixels import jpeg

Predict = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""(N, H, W, C) → (N, K); called in a worker thread, by several at the same time."""

Image = Pixels | bytes
"""(H, W, C), or a small photo as it came."""

Row = NDArray[np.float32]
"""Probabilities, (K,)."""

DELAY = 0.25
"""The part of its own run that a batch of less than a share waits for company."""


@dataclass(slots=True, eq=False)
class _Item:
    image: Image
    row: asyncio.Future[Row | ServiceError]
    arrival_s: float
    deadline_s: float
    start_s: float = 0.0
    decoded_s: float = 0.0
    end_s: float = 0.0


@dataclass(slots=True)
class Runs:
    """What the model has done so far."""

    count: int = 0
    images: int = 0
    failed_in_a_row: int = 0


class Batcher(Places):
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
        decode: Callable[[bytes], Pixels | ServiceError] | None = None,
    ) -> None:
        """Start without threads; they come with the work.

        Args:
            predict: The model.
            metrics: Where to count.
            max_batch: Most images in a run.
            max_delay_s: Longest wait for a fuller batch, beside a fuller one that runs.
            queue_size: Most images admitted at a time.
            workers: Runs at a time.
            pace_s: What an image takes in a run, as a first guess in seconds.
            failed: Called, on the loop, after each run that raised.
            decode: Makes pixels of a small photo, in a worker thread. None: images are decoded
                before they are submitted.
        """
        super().__init__(
            metrics, queue_size=queue_size, max_batch=max_batch, workers=workers, pace_s=pace_s
        )
        self.runs = Runs()
        self._predict = predict
        self._decode = decode
        self._max_delay_s = max_delay_s
        self._failed = failed or _nothing
        self._run_pace = Pace(pace_s)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="predict")
        self._loop = asyncio.get_running_loop()
        self._waiting: Lines[_Item] = Lines()
        self._running: dict[asyncio.Task[None], float] = {}
        self._computing = 0
        self._last_batch = 0
        self._timer: asyncio.TimerHandle | None = None
        self._due = False

    def decodes(self, image: bytes) -> bool:
        """Return whether this image may be submitted as it came."""
        return self._decode is not None and jpeg.is_small(image)

    async def submit(
        self,
        images: Sequence[Image],
        *,
        deadline_s: float = math.inf,
        priority: Priority = Priority.INTERACTIVE,
        stages: Stages | None = None,
    ) -> list[Row | ServiceError]:
        """Return one row of probabilities, (K,), per image, in order, or what is wrong with it.

        Cancelling drops the images that are not being computed yet.

        Args:
            images: Pixels of one size, (H, W, C), and photos for which `decodes` holds.
            deadline_s: When the answer loses its worth, on the clock of `time.monotonic`.
            priority: Which line they wait in.
            stages: Where to note what became of the last of them, and when.

        Raises:
            DeadlineError: The deadline could not be kept any more when their turn came.
            Exception: Whatever `predict` raised.
        """
        now_s = monotonic()
        items = [_Item(image, self._loop.create_future(), now_s, deadline_s) for image in images]
        for item in items:
            self._waiting.push(item, priority)
        self._metrics.queued_images.value += len(items)
        # One turn of the loop later, calls that arrived together are in the same batch.
        if not self._due:
            self._due = True
            self._loop.call_soon(self._dispatch)
        try:
            if len(items) == 1:
                rows = [await items[0].row]
            else:
                rows = await asyncio.gather(*(item.row for item in items))
        finally:
            for item in items:  # when one failed, nobody waits for the others
                item.row.cancel()
        if items and stages is not None:
            last = max(items, key=lambda item: item.end_s)
            stages["queue"] = (last.arrival_s, last.start_s)
            if isinstance(last.image, bytes):
                stages["decode"] = (last.start_s, last.decoded_s)
            stages["compute"] = (last.decoded_s, last.end_s)
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

    def _dispatch(self) -> None:
        """Start every batch that may leave now, and set the clock for the next one."""
        self._due = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while len(self._running) < self.workers and self._drop_dead():
            share = (len(self._waiting) + self._computing) / self.workers
            if len(self._waiting) < math.floor(share):
                first_s = min(item.arrival_s for item in self._waiting)
                leaves_in_s = first_s + self._delay_s() - monotonic()
                if leaves_in_s > 0:
                    self._timer = self._loop.call_later(leaves_in_s, self._dispatch)
                    return
            batch = self._take(math.ceil(share))
            self._computing += len(batch)
            self._running[self._loop.create_task(self._run(batch))] = monotonic()

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
        self._metrics.queued_images.value -= before - len(self._waiting)
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
        self._metrics.queued_images.value -= len(batch)
        return batch

    async def _run(self, batch: list[_Item]) -> None:
        try:
            rows, decoded_s = await self._loop.run_in_executor(
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
            for item, row in zip(batch, rows, strict=True):
                item.decoded_s, item.end_s = decoded_s, now_s
                if not item.row.done():
                    item.row.set_result(row)
        finally:
            if (task := asyncio.current_task()) is not None:
                self._running.pop(task, None)
            self._computing -= len(batch)
            self._dispatch()

    def _compute(self, images: Sequence[Image]) -> tuple[list[Row | ServiceError], float]:
        """Return a row or an error for each image, and when all of them were decoded."""
        decoded = [
            self._decode(image) if self._decode and isinstance(image, bytes) else image
            for image in images
        ]
        decoded_s = monotonic()
        good = [each for each in decoded if isinstance(each, np.ndarray)]
        rows: Iterable[Row] = ()
        if good:
            self._metrics.batch_images.observe(len(good))
            with self._metrics.compute_seconds.time():
                rows = self._predict(np.stack(good))
        left = iter(rows)
        found = [each if isinstance(each, ServiceError) else next(left) for each in decoded]
        return found, decoded_s


def _nothing() -> None:
    """Tell nobody."""
