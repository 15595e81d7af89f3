"""Decodes in threads, interactive work first, and never what nobody waits for any more.

onnxruntime and libjpeg let go of the GIL: decoding and computing really overlap. A picture whose
memory is not free now is put aside, and its thread takes the next one:

    waiting ─► thread ─► done
       ▲         └─ no room now ─► aside, in their order ─┐
       └──────────────── once a picture has ended ────────┘

Shapes: H height, W width, C channels.
"""

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from time import monotonic

import numpy as np
from numpy.typing import NDArray

from service.batching.priority_queue import Priority, PriorityQueue
from service.errors import DeadlineError, ImageError, ServiceError
from service.observability.metrics import Metrics
from service.pixels.apart import Apart
from service.pixels.budget import Budget, NoRoomNow
from service.pixels.jpeg_header import SmallJpeg
from service.pixels.preprocessing import LoadSquare, preprocess

logger = logging.getLogger(__name__)

Pixels = NDArray[np.uint8]


@dataclass(slots=True, eq=False)
class _Job:
    data: bytes
    image_size: int
    deadline_s: float
    done: asyncio.Future[Pixels | ServiceError]
    num_bytes: int | None = None
    """What decoding it takes, once it was put aside for want of it."""


class Decoder:
    """The threads that make pixels, shared by every model. Belongs to one event loop."""

    def __init__(self, threads: int, metrics: Metrics, budget: Budget) -> None:
        """Start without threads; they come with the work.

        Args:
            threads: How many decode at the same time.
            metrics: Where to count.
            budget: The memory that they share.
        """
        self._metrics = metrics
        self._budget = budget
        self._apart = Apart()
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        # One job waits behind each running one, so that no thread idles for a turn of the loop.
        self._most = self._free = 2 * threads
        self._waiting: PriorityQueue[_Job] = PriorityQueue()
        self._aside: deque[_Job] = deque()
        self._sweeping = False

    def decode(
        self, data: bytes, image_size: int, *, priority: Priority, deadline_s: float
    ) -> asyncio.Future[Pixels | ServiceError]:
        """Return what will be what `decoded` returns.

        It raises DeadlineError if the deadline passes before its turn comes; cancelled before, it
        is not decoded.
        """
        done: asyncio.Future[Pixels | ServiceError] = asyncio.get_running_loop().create_future()
        self._waiting.push(_Job(data, image_size, deadline_s, done), priority)
        self._dispatch()
        return done

    def drop_abandoned(self) -> None:
        """Drop, in this turn of the loop, what was cancelled and waits: nobody counts its bytes."""
        if not self._sweeping:
            self._sweeping = True
            asyncio.get_running_loop().call_soon(self._sweep)

    def close(self) -> None:
        """End the threads; what waits is dropped."""
        self._threads.shutdown(cancel_futures=True)
        self._apart.close()

    def _sweep(self) -> None:
        self._sweeping = False
        self._waiting.keep(self._wanted)
        self._aside = deque(filter(self._wanted, self._aside))
        self._dispatch()

    def _dispatch(self) -> None:
        while self._free and (job := self._next()):
            self._free -= 1
            work = self._threads.submit(
                decoded,
                job.data,
                job.image_size,
                self._metrics,
                budget=self._budget,
                # What was put aside is asked for again only when there is room for it.
                waits=job.num_bytes is not None,
                apart=self._apart.load_square,
            )
            # Without a task for each image: they are the many.
            work.add_done_callback(self._told(job))

    def _next(self) -> _Job | None:
        """Return the job whose turn it is, if there is one that can begin now."""
        while self._aside and not self._wanted(self._aside[0]):
            self._aside.popleft()
        # Where nothing runs here, a thread that computes a batch holds what is missing: briefly.
        idle = self._free == self._most
        job = None
        if self._aside and (idle or self._budget.fits(self._aside[0].num_bytes or 0)):
            job = self._aside.popleft()
        # Else what is large and comes later would take, again and again, what becomes free.
        self._budget.closed = bool(self._aside)
        while job is None and self._waiting:
            job = self._waiting.pop()
            if not self._wanted(job):
                job = None
        return job

    def _wanted(self, job: _Job) -> bool:
        """Return whether anybody waits for it, and tell those who have waited for too long."""
        if job.done.done():
            self._metrics.rejected_images.labels("cancelled").inc()
            return False
        if job.deadline_s > monotonic():
            return True
        self._too_late(job)
        return False

    def _too_late(self, job: _Job) -> None:
        if not job.done.done():
            self._metrics.rejected_images.labels("deadline").inc()
            job.done.set_exception(DeadlineError("the deadline passed in the queue"))

    def _told(self, job: _Job) -> Callable[[Future[Pixels | ServiceError]], object]:
        loop = asyncio.get_running_loop()
        return lambda work: loop.call_soon_threadsafe(self._ended, job, work)

    def _ended(self, job: _Job, work: Future[Pixels | ServiceError]) -> None:
        self._free += 1
        if not work.cancelled() and isinstance(why := work.exception(), NoRoomNow):
            job.num_bytes = why.num_bytes
            self._put_aside(job)
        elif not (job.done.done() or work.cancelled()):
            job.done.set_result(work.result())
        self._dispatch()

    def _put_aside(self, job: _Job) -> None:
        self._aside.append(job)
        if job.deadline_s < math.inf:
            # It may be long until something ends here, and nobody would be told before.
            loop = asyncio.get_running_loop()
            loop.call_later(max(job.deadline_s - monotonic(), 0), self._too_late, job)


def decoded(
    data: bytes | SmallJpeg,
    image_size: int,
    metrics: Metrics,
    *,
    budget: Budget,
    waits: bool = True,
    apart: LoadSquare | None = None,
) -> Pixels | ServiceError:
    """Return the pixels that the model sees, (S, S, 3), or what is wrong with these bytes.

    Args:
        data: An encoded photo.
        image_size: S, in pixels.
        metrics: Where it is timed and counted.
        budget: As in `preprocess`.
        waits: As in `preprocess`.
        apart: As in `preprocess`.

    Raises:
        NoRoomNow: As in `preprocess`; nothing is counted.
    """
    start_s = monotonic()
    found: Pixels | ServiceError
    try:
        found = preprocess(data, image_size, budget=budget, waits=waits, apart=apart)
    except NoRoomNow:
        raise
    except ImageError as error:
        metrics.bad_images.labels(error.kind).inc()
        # Its frames hold the photo, and would be garbage only once a collector finds the cycle.
        error.__cause__ = error.__context__ = None
        found = error.with_traceback(None)
    except Exception:
        metrics.bad_images.labels("unhandled").inc()
        num_bytes = len(data if isinstance(data, bytes) else data.data)
        logger.exception("unhandled error in decoding an image of %d bytes", num_bytes)
        found = ServiceError("internal error")
    metrics.decode_seconds.observe(monotonic() - start_s)
    return found
