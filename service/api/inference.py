"""From the images of a call to their probabilities: what both services of the server share.

    quota ─► bytes ─► admission ─► decode ─► batcher ─► rows
                                      └─ a bad image gets an error of its own, and spares the others

Where the batcher decodes small photos itself, they are submitted encoded.

Everything is bounded before any work is done. A call that does not fit is refused at once, unless
it may wait: bulk streams do, and so do their senders, by flow control.

Shapes: N batch, H height, W width, C channels.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import cache
from time import monotonic

import numpy as np
from numpy.typing import NDArray
from prometheus_client import Counter

from service.api.auth import caller
from service.batching.batcher import Image, Row
from service.batching.byte_budget import ByteBudget
from service.batching.decoder import Decoder
from service.batching.priority_queue import Priority
from service.capture.capture import Answered, Capture
from service.errors import OverloadedError, ServiceError
from service.models.instance import ModelInstance
from service.models.metadata import MAX_COUNTED, OTHER
from service.observability.metrics import Metrics
from service.observability.tracing import NoTracing, Stages, Tracing

_MAX_SERIES = 2 * MAX_COUNTED
"""Classes of a model that are counted by name from the server's start to its end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CallOptions:
    """How a call is to be treated."""

    priority: Priority = Priority.INTERACTIVE
    deadline_s: float = math.inf
    """When the answer becomes worthless, on the clock of `time.monotonic`."""
    may_wait: bool = False
    """Whether the call waits until it fits, instead of being refused."""


class Inference:
    """Decodes, queues and computes the images of calls, within the limits of the server.

    Attributes:
        budget: Bounds the bytes of images that are in the server.
        capture: Keeps some of the photos, or None.
    """

    def __init__(
        self,
        decoder: Decoder,
        metrics: Metrics,
        *,
        budget: ByteBudget | None = None,
        tracing: Tracing | None = None,
        capture: Capture | None = None,
    ) -> None:
        """Use a decoder that all models share.

        Args:
            decoder: Decodes what batchers do not.
            metrics: Where to count.
            budget: Bounds the bytes of images that are in the server; None: to 256 MiB.
            tracing: Where spans go.
            capture: Keeps some of the photos; None: none are kept.
        """
        self.capture = capture
        self._decoder = decoder
        self._metrics = metrics
        # Looking a label up takes as long as counting does.
        self._predictions = cache(self._prediction)
        self._counted: dict[str, set[str]] = {}
        self._confidence = cache(metrics.confidence.labels)
        self.budget = budget or ByteBudget(256 * 2**20, metrics)
        self._tracing = tracing or NoTracing()

    async def classify(
        self, instance: ModelInstance, images: Sequence[bytes], options: CallOptions
    ) -> list[Row | ServiceError]:
        """Return probabilities for each encoded image, or the image's error.

        Raises:
            OverloadedError: It does not fit, the quota is used up, or the deadline is too near.
            DeadlineError: The deadline passed while it waited.
        """

        async def work(stages: Stages) -> list[Row | ServiceError]:
            decoded = await self._decoded(instance, images, options, stages)
            good = [each for each in decoded if not isinstance(each, ServiceError)]
            rows = iter(await self._compute(instance, good, options, stages))
            return [each if isinstance(each, ServiceError) else next(rows) for each in decoded]

        num_bytes = sum(map(len, images))
        rows = await self._admitted(instance, len(images), num_bytes, options, work)
        if self.capture is not None:
            for image, row in zip(images, rows, strict=True):
                if not isinstance(row, ServiceError):
                    self.capture.offer(answered(instance, image, row))
        return rows

    async def compute(
        self, instance: ModelInstance, pixels_NHWC: NDArray[np.uint8], options: CallOptions
    ) -> list[Row | ServiceError]:
        """Return probabilities for images that are decoded already.

        Raises:
            OverloadedError: As `classify`.
            DeadlineError: As `classify`.
        """

        def work(stages: Stages) -> Awaitable[list[Row | ServiceError]]:
            stages["decode"] = (now_s := monotonic(), now_s)
            return self._compute(instance, list(pixels_NHWC), options, stages)

        return await self._admitted(instance, len(pixels_NHWC), pixels_NHWC.nbytes, options, work)

    async def _admitted(
        self,
        instance: ModelInstance,
        images: int,
        num_bytes: int,
        options: CallOptions,
        work: Callable[[Stages], Awaitable[list[Row | ServiceError]]],
    ) -> list[Row | ServiceError]:
        """Do the work within the limits, and count it."""
        start_s = monotonic()
        stages: Stages = {}
        batcher = instance.batcher
        try:
            # A version that is replaced while this call waits still answers it.
            with batcher.keep_open():
                await self._spend(images, options)
                if options.may_wait:
                    async with (
                        self.budget.admit_when_free(num_bytes, priority=options.priority),
                        batcher.admit_when_free(
                            images,
                            image_bytes=num_bytes / max(images, 1),
                            priority=options.priority,
                        ),
                    ):
                        rows = await work(stages)
                else:
                    with (
                        self.budget.admit(num_bytes, images=images, priority=options.priority),
                        batcher.admit(
                            images,
                            image_bytes=num_bytes / max(images, 1),
                            priority=options.priority,
                            deadline_s=options.deadline_s,
                        ),
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

    def _prediction(self, model: str, label: str) -> Counter:
        """Return the counter of a model's class, or of all others once the model has too many.

        Versions that serve one after another may each have other classes, and a series stays.
        """
        counted = self._counted.setdefault(model, {OTHER})
        if len(counted) < _MAX_SERIES:
            counted.add(label)
        return self._metrics.predictions.labels(model, label if label in counted else OTHER)

    async def _spend(self, images: int, options: CallOptions) -> None:
        """Take `images` from the caller's quota; wait for it, or refuse."""
        who = caller.get()
        while wait_s := who.take(images):
            if not options.may_wait:
                self._metrics.rejected_images.labels("quota").inc(images)
                raise OverloadedError(
                    f"{who.name} may have {who.images_per_s:g} images a second, and has had them;"
                    f" try again in {wait_s:.2g} s",
                    retry_after_s=wait_s,
                )
            await asyncio.sleep(wait_s)

    async def _decoded(
        self, instance: ModelInstance, images: Sequence[bytes], options: CallOptions, stages: Stages
    ) -> Sequence[Image | ServiceError]:
        """Return the images, decoded unless the batcher decodes them itself."""
        found: dict[int, Image | ServiceError] = {
            at: photo
            for at, image in enumerate(images)
            if (photo := instance.batcher.to_decode(image)) is not None
        }
        if len(found) == len(images):
            return list(found.values())
        size = instance.model.metadata.image_size
        jobs = {
            at: self._decoder.decode(
                image, size, priority=options.priority, deadline_s=options.deadline_s
            )
            for at, image in enumerate(images)
            if at not in found
        }
        start_s = monotonic()
        try:
            found |= zip(jobs, await asyncio.gather(*jobs.values()), strict=True)
        except BaseException:
            for job in jobs.values():  # if one is too late, the call is
                job.cancel()
            self._decoder.drop_abandoned()
            raise
        stages["decode"] = (start_s, monotonic())
        return [found[at] for at in range(len(images))]

    async def _compute(
        self, instance: ModelInstance, images: Sequence[Image], options: CallOptions, stages: Stages
    ) -> list[Row | ServiceError]:
        """Return the rows of the images, and count what they say."""
        rows = await instance.batcher.submit(
            images, deadline_s=options.deadline_s, priority=options.priority, stages=stages
        )
        metadata = instance.model.metadata
        confidence = self._confidence(instance.name)
        for row_K in rows:
            if isinstance(row_K, ServiceError):
                continue
            best = int(row_K.argmax())
            self._predictions(instance.name, metadata.counted_as(metadata.labels[best])).inc()
            confidence.observe(float(row_K[best]))
        return rows


def answered(instance: ModelInstance, image: bytes, row_K: Row) -> Answered:
    """Return what is kept of a photo and its answer."""
    return Answered(
        image=image,
        model=instance.name,
        version=instance.version,
        labels=instance.model.metadata.labels,
        probabilities=row_K,
        min_confidence=instance.model.metadata.min_confidence,
    )
