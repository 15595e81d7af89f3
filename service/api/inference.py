"""From the images of a call to their probabilities: what both services of the server share.

    quota ─► bytes ─► places ─► decode ─► batcher ─► rows
                                   └─ a bad image gets an error of its own, and spares the others

Where the batcher decodes small photos itself, they go to it as they came.

Everything is bounded before any work is done. A call that finds no room is refused at once, unless
it is patient: bulk streams wait instead, and their senders with them.

Shapes: N batch, H height, W width, C channels.
"""

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from time import monotonic

import numpy as np
from numpy.typing import NDArray

from service.api.auth import caller
from service.batching.batcher import Image, Row
from service.batching.decoder import Decoder
from service.batching.priority_queue import Priority
from service.errors import OverloadedError, ServiceError
from service.models.instance import ModelInstance
from service.observability.metrics import Metrics
from service.observability.tracing import NoTracing, Stages, Tracing


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

    @contextmanager
    def held(self, count: int, images: int) -> Iterator[None]:
        if not self._fits(count):
            self._metrics.rejected_images.labels("bytes_full").inc(images)
            raise OverloadedError(
                f"the server is full: it holds {self._held} bytes of images, and {count} more"
                f" are beyond its {self._most}; try again later",
                retry_after_s=0.1,
            )
        self._change(count)
        try:
            yield
        finally:
            self._change(-count)

    async def room(self, count: int) -> None:
        while not self._fits(count):
            turn = asyncio.get_running_loop().create_future()
            self._wanting.append(turn)
            await turn

    def _fits(self, count: int) -> bool:
        # What is larger than all of it is let in alone; the limit on messages bounds it.
        return not self._held or self._held + count <= self._most

    def _change(self, count: int) -> None:
        self._held += count
        self._metrics.bytes_in_flight.value += count
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
        quota: Callable[[str, int], Awaitable[float]] | None = None,
    ) -> None:
        """Share a decoder.

        Args:
            decoder: Decodes what batchers do not.
            metrics: Where to count.
            max_bytes: Most bytes of images that are in the server.
            tracing: Where spans go.
            quota: Does what `Caller.take` does, given a caller's name, where several processes
                share the quotas.
        """
        self._decoder = decoder
        self._metrics = metrics
        # To find a label's measure anew takes as long as to count.
        self._predictions = cache(metrics.predictions.labels)
        self._confidence = cache(metrics.confidence.labels)
        self._bytes = _Bytes(max_bytes, metrics)
        self._tracing = tracing or NoTracing()
        self._quota = quota

    async def classify(
        self, instance: ModelInstance, images: Sequence[bytes], terms: Terms
    ) -> list[Row | ServiceError]:
        """Return probabilities for each encoded image, or what is wrong with it.

        Raises:
            OverloadedError: There is no room, the quota is used up, or the deadline is too near.
            DeadlineError: The deadline passed while it waited.
        """

        async def work(stages: Stages) -> list[Row | ServiceError]:
            decoded = await self._decoded(instance, images, terms, stages)
            good = [each for each in decoded if not isinstance(each, ServiceError)]
            rows = iter(await self._compute(instance, good, terms, stages))
            return [each if isinstance(each, ServiceError) else next(rows) for each in decoded]

        return await self._admitted(instance, len(images), sum(map(len, images)), terms, work)

    async def compute(
        self, instance: ModelInstance, pixels_NHWC: NDArray[np.uint8], terms: Terms
    ) -> list[Row | ServiceError]:
        """Return probabilities for images that are decoded already.

        Raises:
            OverloadedError: As `classify`.
            DeadlineError: As `classify`.
        """

        def work(stages: Stages) -> Awaitable[list[Row | ServiceError]]:
            stages["decode"] = (now_s := monotonic(), now_s)
            return self._compute(instance, list(pixels_NHWC), terms, stages)

        return await self._admitted(instance, len(pixels_NHWC), pixels_NHWC.nbytes, terms, work)

    async def _admitted(
        self,
        instance: ModelInstance,
        images: int,
        num_bytes: int,
        terms: Terms,
        work: Callable[[Stages], Awaitable[list[Row | ServiceError]]],
    ) -> list[Row | ServiceError]:
        """Do the work within the limits, and count it."""
        start_s = monotonic()
        stages: Stages = {}
        batcher = instance.batcher
        try:
            # A version that is swapped out while this call waits for room still answers it.
            with batcher.held():
                await self._spend(images, terms)
                if terms.patient:
                    await self._bytes.room(num_bytes)
                    with self._bytes.held(num_bytes, images):
                        async with batcher.admit_later(images, priority=terms.priority):
                            rows = await work(stages)
                else:
                    with (
                        self._bytes.held(num_bytes, images),
                        batcher.admit(images, priority=terms.priority, deadline_s=terms.deadline_s),
                    ):
                        rows = await work(stages)
        except BaseException:
            instance.statistics.failed_calls += 1
            instance.statistics.failed_s += monotonic() - start_s
            raise
        instance.statistics.answered(images, monotonic() - start_s, stages)
        self._tracing.stages(
            stages, {"model": instance.name, "version": instance.version, "images": images}
        )
        return rows

    async def _spend(self, images: int, terms: Terms) -> None:
        who = caller.get()
        while who.images_per_s:
            take = self._quota(who.name, images) if self._quota else None
            wait_s = who.take(images) if take is None else await take
            if not wait_s:
                return
            if not terms.patient:
                self._metrics.rejected_images.labels("quota").inc(images)
                raise OverloadedError(
                    f"{who.name} may have {who.images_per_s:g} images a second, and has had them;"
                    f" try again in {wait_s:.2g} s",
                    retry_after_s=wait_s,
                )
            await asyncio.sleep(wait_s)

    async def _decoded(
        self, instance: ModelInstance, images: Sequence[bytes], terms: Terms, stages: Stages
    ) -> Sequence[Image | ServiceError]:
        """Decode what the batcher does not decode itself."""
        decodes, size = instance.batcher.decodes, instance.model.metadata.image_size
        jobs = {
            at: self._decoder.decode(
                image, size, priority=terms.priority, deadline_s=terms.deadline_s
            )
            for at, image in enumerate(images)
            if not decodes(image)
        }
        if not jobs:
            return images
        start_s = monotonic()
        try:
            done = dict(zip(jobs, await asyncio.gather(*jobs.values()), strict=True))
        finally:
            for job in jobs.values():  # when one is too late, all are
                job.cancel()
        stages["decode"] = (start_s, monotonic())
        return [done.get(at, image) for at, image in enumerate(images)]

    async def _compute(
        self, instance: ModelInstance, images: Sequence[Image], terms: Terms, stages: Stages
    ) -> list[Row | ServiceError]:
        rows = await instance.batcher.submit(
            images, deadline_s=terms.deadline_s, priority=terms.priority, stages=stages
        )
        labels = instance.model.metadata.labels
        confidence = self._confidence(instance.name)
        for row_K in rows:
            if isinstance(row_K, ServiceError):
                continue
            best = int(row_K.argmax())
            self._predictions(instance.name, labels[best]).inc()
            confidence.observe(float(row_K[best]))
        return rows
