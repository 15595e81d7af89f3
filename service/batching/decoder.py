"""Decodes in threads, interactive work first, and never what nobody waits for any more.

onnxruntime and libjpeg let go of the GIL: decoding and computing really overlap.

Shapes: H height, W width, C channels.
"""

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from time import monotonic

import numpy as np
from numpy.typing import NDArray

from service.batching.priority_queue import Priority, PriorityQueue
from service.errors import DeadlineError, ImageError, ServiceError
from service.observability.metrics import Metrics
from service.pixels.preprocessing import preprocess

logger = logging.getLogger(__name__)

Pixels = NDArray[np.uint8]


@dataclass(slots=True, eq=False)
class _Job:
    data: bytes
    image_size: int
    deadline_s: float
    done: asyncio.Future[Pixels | ServiceError]


class Decoder:
    """The threads that make pixels, shared by every model. Belongs to one event loop."""

    def __init__(self, threads: int, metrics: Metrics) -> None:
        self._metrics = metrics
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        # One job waits behind each running one, so that no thread idles for a turn of the loop.
        self._free = 2 * threads
        self._waiting: PriorityQueue[_Job] = PriorityQueue()
        self._large = threading.Lock()

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

    def close(self) -> None:
        """End the threads; what waits is dropped."""
        self._threads.shutdown(cancel_futures=True)

    def _dispatch(self) -> None:
        while self._free and self._waiting:
            job = self._waiting.pop()
            if job.done.done():
                self._metrics.rejected_images.labels("cancelled").inc()
                continue
            if job.deadline_s <= monotonic():
                self._metrics.rejected_images.labels("deadline").inc()
                job.done.set_exception(DeadlineError("the deadline passed in the queue"))
                continue
            self._free -= 1
            work = self._threads.submit(
                decoded, job.data, job.image_size, self._metrics, large=self._large
            )
            # Without a task for each image: they are the many.
            work.add_done_callback(self._told(job))

    def _told(self, job: _Job) -> Callable[[Future[Pixels | ServiceError]], object]:
        loop = asyncio.get_running_loop()
        return lambda work: loop.call_soon_threadsafe(self._ended, job, work)

    def _ended(self, job: _Job, work: Future[Pixels | ServiceError]) -> None:
        self._free += 1
        self._dispatch()
        if not (job.done.done() or work.cancelled()):
            job.done.set_result(work.result())


def decoded(
    data: bytes,
    image_size: int,
    metrics: Metrics,
    *,
    large: AbstractContextManager[object] | None = None,
) -> Pixels | ServiceError:
    """Return the pixels that the model sees, (S, S, 3), or what is wrong with these bytes.

    Args:
        data: An encoded photo.
        image_size: S, in pixels.
        metrics: Where it is timed and counted.
        large: As in `preprocess`.
    """
    try:
        with metrics.decode_seconds.time():
            return preprocess(data, image_size, large=large)
    except ImageError as error:
        metrics.bad_images.labels(error.kind).inc()
        # Its frames hold the photo, and would be garbage only once a collector finds the cycle.
        error.__cause__ = error.__context__ = None
        return error.with_traceback(None)
    except Exception:
        metrics.bad_images.labels("unhandled").inc()
        logger.exception("unhandled error in decoding an image of %d bytes", len(data))
        return ServiceError("internal error")
