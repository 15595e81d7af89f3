"""Dynamic batching across callers: many small calls become few runs of the model.

    admit(n) ── OverloadedError when full, or too late for the deadline (admission.py)
       │
    submit(images) ─► priority queue ─► batch ─► predict, in a worker thread ─► one row each

A free worker takes its share of all images that wait or are being computed, and no more. If it took
everything that waits, the next worker would be idle and every caller would wait for the whole run.

While less than a share waits, the worker waits for company: until one image has waited a quarter of
what such a batch takes, and `max_delay_s` at most. So a lone caller never waits for others that do
not come. Under load batches grow with it: a run reads all weights once, however many images it has.
Everything but `predict` happens on the event loop.

Small photos may be submitted encoded. On a CPU the thread that computes a batch decodes them first:
handing each photo to another thread and back costs half as much as decoding it, and the cores are
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

from service.batching.admission import Admission
from service.batching.decoder import Pixels
from service.batching.priority_queue import Priority, PriorityQueue
from service.batching.service_time import ServiceTime
from service.errors import DeadlineError, ServiceError
from service.observability.metrics import Metrics
from service.observability.tracing import Stages
from service.pixels.jpeg_header import SmallJpeg, small

Predict = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""(N, H, W, C) → (N, K); several worker threads call it at the same time."""

Image = Pixels | SmallJpeg
"""Pixels, (H, W, C), or a small photo that is still encoded."""

Row = NDArray[np.float32]
"""Probabilities, (K,)."""

DELAY = 0.25
"""How long a batch of less than a share waits for company, as a part of its own run."""


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
    """How many runs of the model there were."""

    count: int = 0
    """Runs that succeeded."""
    images: int = 0
    """Images in them."""
    failed_in_a_row: int = 0
    """Runs that raised since the last one that succeeded."""


class Batcher(Admission):
    """The queue of one model and the workers that empty it. Belongs to one event loop."""

    def __init__(
        self,
        predict: Predict,
        *,
        metrics: Metrics,
        max_batch: int = 32,
        max_delay_s: float = 0.025,
        queue_size: int = 512,
        workers: int = 1,
        seconds_per_image: float = 0.0,
        failed: Callable[[], None] | None = None,
        decode: Callable[[SmallJpeg], Pixels | ServiceError] | None = None,
    ) -> None:
        """Start empty; threads start with the first work.

        Args:
            predict: The model.
            metrics: Where to count.
            max_batch: Most images in a run.
            max_delay_s: Longest wait for a fuller batch, while another batch runs.
            queue_size: Most images admitted at a time.
            workers: Runs at a time.
            seconds_per_image: First guess of what an image takes in a run; 0 where there is none.
            failed: Called on the loop after each run that raised.
            decode: Decodes a small photo, in a worker thread. None: images are decoded before they
                are submitted.
        """
        super().__init__(
            metrics, queue_size=queue_size, max_batch=max_batch, workers=workers,
            seconds_per_image=seconds_per_image,
        )  # fmt: skip
        self.runs = Runs()
        self._predict = predict
        self._decode = decode
        self._max_delay_s = max_delay_s
        self._failed = failed or _nothing
        self._run_time = ServiceTime(seconds_per_image)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="predict")
        self._loop = asyncio.get_running_loop()
        self._waiting: PriorityQueue[_Item] = PriorityQueue()
        self._running: dict[asyncio.Task[None], float] = {}
        self._computing = self._last_batch = 0
        self._timer: asyncio.TimerHandle | None = None
        self._due = self._sweeping = False

    def to_decode(self, image: bytes) -> SmallJpeg | None:
        """Return what may be submitted of an encoded image; None: it must be decoded first."""
        return None if self._decode is None else small(image)

    async def submit(
        self,
        images: Sequence[Image],
        *,
        deadline_s: float = math.inf,
        priority: Priority = Priority.INTERACTIVE,
        stages: Stages | None = None,
    ) -> list[Row | ServiceError]:
        """Return one row of probabilities, (K,), per image, in order, or the image's error.

        Cancelling drops the images that no run has taken yet.

        Args:
            images: Pixels of one size, (H, W, C), and what `to_decode` returned.
            deadline_s: When the answer becomes worthless, on the clock of `time.monotonic`.
            priority: Which of them go first.
            stages: Filled with the times of the image that was answered last.

        Raises:
            DeadlineError: When a run could take them, the deadline could no longer be kept.
            Exception: Whatever `predict` raised.
        """
        now_s = monotonic()
        items = [_Item(image, self._loop.create_future(), now_s, deadline_s) for image in images]
        for item in items:
            self._waiting.push(item, priority)
        self._metrics.queued_images.value += len(items)
        # Later in this iteration of the loop: calls that arrived together share a batch.
        if not self._due:
            self._due = True
            self._loop.call_soon(self._dispatch)
        try:
            one = len(items) == 1
            rows = [await items[0].row] if one else await asyncio.gather(*(i.row for i in items))
        except BaseException:
            for item in items:  # if one failed, nobody waits for the others
                item.row.cancel()
            if not self._sweeping:  # they are not admitted any more: nothing bounds what lies there
                self._sweeping = True
                self._loop.call_soon(self._drop_abandoned)
            raise
        if items and stages is not None:
            last = max(items, key=lambda item: item.end_s)
            stages["queue"] = (last.arrival_s, last.start_s)
            if not isinstance(last.image, np.ndarray):
                stages["decode"] = (last.start_s, last.decoded_s)
            stages["compute"] = (last.decoded_s, last.end_s)
        return rows

    def oldest_run_s(self) -> float | None:
        """Return when the oldest current run began (`time.monotonic`); None when nothing runs."""
        return min((at for at in self._running.values() if at), default=None)

    async def close(self) -> None:
        """Wait until every admitted or held call is answered, then end the worker threads."""
        await self._empty.wait()
        await asyncio.gather(*self._running)
        self._threads.shutdown()
        # Break the reference cycle with the batcher's owner: otherwise the session's memory stays
        # until the garbage collector runs, which may be hours later.
        self._failed = _nothing

    def _dispatch(self) -> None:
        """Start every batch that is due, and set a timer for the next one."""
        self._due = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while len(self._running) < self.workers and self._drop_abandoned():
            share = (len(self._waiting) + self._computing) / self.workers
            if len(self._waiting) < math.floor(share):
                first_s = min(item.arrival_s for item in self._waiting)
                due_in_s = first_s + self._delay_s() - monotonic()
                if due_in_s > 0:
                    self._timer = self._loop.call_later(due_in_s, self._dispatch)
                    return
            batch = self._take(math.ceil(share))
            self._computing += len(batch)
            self._running[self._loop.create_task(self._run(batch))] = monotonic()

    def _delay_s(self) -> float:
        """Return how long the oldest image may wait for company, given the runs so far."""
        run_s = self._run_time.expected_s(max(len(self._waiting), self._last_batch))
        return min(self._max_delay_s, DELAY * run_s) if run_s else self._max_delay_s

    def _drop_abandoned(self) -> int:
        """Remove images whose caller left or whose deadline is too near; return how many wait."""
        self._sweeping = False
        before = len(self._waiting)
        # An image that would be late even if it ran alone and now is not begun.
        ends_s = monotonic() + self._run_time.expected_s(1)

        def is_wanted(item: _Item) -> bool:
            # A caller that gave up must not cost compute.
            if item.row.done():
                self._metrics.rejected_images.labels("cancelled").inc()
                return False
            if item.deadline_s <= ends_s:
                self._metrics.rejected_images.labels("deadline").inc()
                item.row.set_exception(DeadlineError("the deadline passed in the queue"))
                return False
            return True

        self._waiting.keep(is_wanted)
        self._metrics.queued_images.value -= before - len(self._waiting)
        return len(self._waiting)

    def _take(self, count: int) -> list[_Item]:
        """Remove a batch of at most `count` images from the queue."""
        now_s, until_s = monotonic(), math.inf
        batch: list[_Item] = []
        while self._waiting and len(batch) < min(count, self._max_batch):
            # A larger batch takes longer: the nearest deadline in it bounds its size.
            until_s = min(until_s, self._waiting.first().deadline_s)
            if batch and now_s + self._run_time.bound_s(len(batch) + 1) > until_s:
                break
            batch.append(self._waiting.pop())
        self._last_batch = len(batch)
        for item in batch:
            item.start_s = now_s
            self._metrics.queue_seconds.observe(now_s - item.arrival_s)
        self._metrics.queued_images.value -= len(batch)
        return batch

    async def _run(self, batch: list[_Item]) -> None:
        """Compute a batch, answer its images, and start what is due next."""
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
            self._run_time.observe(now_s - batch[0].start_s, len(batch))
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
        """Return a row or an error for each image, and the time when all were decoded."""
        decoded = [
            image if isinstance(image, np.ndarray) or self._decode is None else self._decode(image)
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
    """Do nothing: the default for `failed`."""
