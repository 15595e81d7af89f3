"""From the images of a call to their probabilities: what both services of the server share.

    quota ─► bytes ─► places ─► decode, in threads ─► batcher ─► rows
                                   └─ a bad image gets an error of its own, and spares the others

Everything is bounded before any work is done. A call that finds no room is refused at once, unless
it is patient: bulk streams wait instead, and their senders with them.

Shapes: H height, W width, C channels, K classes.
"""

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.auth import caller
from service.decoder import Decoder, Pixels
from service.errors import OverloadedError, ServiceError
from service.lines import Priority
from service.metrics import Metrics
from service.pool import ModelInstance
from service.tracing import NoTracing, Tracing, noted, stage

Row = NDArray[np.float32]
"""Probabilities, (K,)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """How a call wants to be treated."""

    priority: Priority = Priority.INTERACTIVE
    deadline_s: float = math.inf
    """When the answer loses its worth, on the clock of `time.monotonic`."""
    patient: bool = False
    """Whether it waits for room instead of being refused."""


class _Bytes:
    """How many bytes of images are in the server, and the most that may be."""

    def __init__(self, most: int, metrics: Metrics) -> None:
        self._most = most
        self._metrics = metrics
        self._held = 0
        self._wanting: deque[asyncio.Future[None]] = deque()

    @asynccontextmanager
    async def held(self, count: int, terms: Terms, images: int) -> AsyncIterator[None]:
        # What is larger than all of it is let in alone; the limit on messages bounds it.
        while self._held and self._held + count > self._most:
            if not terms.patient:
                self._metrics.rejected_images.labels("bytes_full").inc(images)
                raise OverloadedError(
                    f"the server is full: it holds {self._held} bytes of images, and {count} more"
                    f" are beyond its {self._most}; try again later",
                    retry_after_s=0.1,
                )
            turn = asyncio.get_running_loop().create_future()
            self._wanting.append(turn)
            await turn
        self._change(count)
        try:
            yield
        finally:
            self._change(-count)

    def _change(self, count: int) -> None:
        self._held += count
        self._metrics.bytes_in_flight.set(self._held)
        while count < 0 and self._wanting:
            turn = self._wanting.popleft()
            if not turn.done():
                turn.set_result(None)


class Engine:
    """Decodes, queues and computes, within the limits of the server."""

    def __init__(
        self,
        decoder: Decoder,
        metrics: Metrics,
        *,
        max_bytes: int = 256 * 2**20,
        tracing: Tracing | None = None,
    ) -> None:
        """Share a decoder; `max_bytes` bounds the images that are in the server."""
        self._decoder = decoder
        self._metrics = metrics
        self._bytes = _Bytes(max_bytes, metrics)
        self._tracing = tracing or NoTracing()

    async def classify(
        self, instance: ModelInstance, images: Sequence[bytes], terms: Terms
    ) -> list[Row | ServiceError]:
        """Return probabilities for each encoded image, or what is wrong with it.

        Raises:
            OverloadedError: There is no room, the quota is used up, or the deadline is too near.
            DeadlineError: The deadline passed while it waited.
        """
        async with self._admitted(instance, len(images), sum(map(len, images)), terms):
            start_s = monotonic()
            size = instance.model.metadata.image_size
            decoding = [
                self._decoder.decode(
                    data, size, priority=terms.priority, deadline_s=terms.deadline_s
                )
                for data in images
            ]
            decoded = [await decoding[0]] if len(decoding) == 1 else await _all(decoding)
            stage("decode", start_s, monotonic())
            pixels = [each for each in decoded if not isinstance(each, ServiceError)]
            rows = iter(await self._compute(instance, pixels, terms))
        return [each if isinstance(each, ServiceError) else next(rows) for each in decoded]

    async def compute(
        self, instance: ModelInstance, pixels_NHWC: NDArray[np.uint8], terms: Terms
    ) -> list[Row]:
        """Return probabilities for images that are decoded already.

        Raises:
            OverloadedError: As `classify`.
            DeadlineError: As `classify`.
        """
        async with self._admitted(instance, len(pixels_NHWC), pixels_NHWC.nbytes, terms):
            now_s = monotonic()
            stage("decode", now_s, now_s)
            return await self._compute(instance, list(pixels_NHWC), terms)

    @asynccontextmanager
    async def _admitted(
        self, instance: ModelInstance, images: int, num_bytes: int, terms: Terms
    ) -> AsyncIterator[None]:
        start_s = monotonic()
        async with AsyncExitStack() as held:
            stages = held.enter_context(noted())
            # A version that is swapped out while this call waits for room still answers it.
            held.enter_context(instance.batcher.held())
            try:
                await self._spend(images, terms)
                await held.enter_async_context(self._bytes.held(num_bytes, terms, images))
                if terms.patient:
                    await held.enter_async_context(
                        instance.batcher.admit_later(images, priority=terms.priority)
                    )
                else:
                    held.enter_context(
                        instance.batcher.admit(
                            images, priority=terms.priority, deadline_s=terms.deadline_s
                        )
                    )
                yield
            except BaseException:
                instance.statistics.failed_calls += 1
                instance.statistics.failed_s += monotonic() - start_s
                raise
            stages["call"] = (start_s, monotonic())
            instance.statistics.answered(images, stages)
            self._tracing.stages(
                {name: times for name, times in stages.items() if name != "call"},
                {"model": instance.name, "version": instance.version, "images": images},
            )

    async def _spend(self, images: int, terms: Terms) -> None:
        who = caller.get()
        try:
            while True:
                try:
                    return who.spend(images)
                except OverloadedError as error:
                    if not terms.patient:
                        raise
                    await asyncio.sleep(error.retry_after_s or 0)
        except OverloadedError:
            self._metrics.rejected_images.labels("quota").inc(images)
            raise

    async def _compute(
        self, instance: ModelInstance, pixels: list[Pixels], terms: Terms
    ) -> list[Row]:
        rows = await instance.batcher.submit(
            pixels, deadline_s=terms.deadline_s, priority=terms.priority
        )
        labels = instance.model.metadata.labels
        confidence = self._metrics.confidence.labels(instance.name)
        for row_K in rows:
            best = int(row_K.argmax())
            self._metrics.predictions.labels(instance.name, labels[best]).inc()
            confidence.observe(float(row_K[best]))
        return rows


async def _all(
    decoding: Sequence[Coroutine[Any, Any, Pixels | ServiceError]],
) -> list[Pixels | ServiceError]:
    tasks = [asyncio.ensure_future(each) for each in decoding]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:  # when one is too late, all are
            task.cancel()
