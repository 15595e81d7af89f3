"""`hansang.v1.Classifier`: each call is answered by one loaded version of a model.

That is the version that serves when the call arrives, also if another one takes over meanwhile.

Shapes: K classes.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from google.rpc.status_pb2 import Status
from grpc import StatusCode

from service.api.inference import CallOptions, Inference, answered
from service.api.interceptors import Timed, deadline_s
from service.api.statuses import status
from service.api.streams import in_order
from service.batching.batcher import Row
from service.batching.priority_queue import Priority
from service.config import MAX_IMAGES_PER_CALL
from service.errors import InvalidArgumentError, NotOfferedError, ServiceError
from service.models.instance import ModelInstance
from service.pb import classifier_pb2 as pb
from service.pb import classifier_pb2_grpc as pb_grpc

DEFAULT_TOP_K = 5

Find = Callable[[str, int], ModelInstance]


class ClassifierServicer(pb_grpc.ClassifierServicer):
    """Answers calls with labels and their probabilities."""

    def __init__(
        self, find: Find, inference: Inference, timed: Timed, stopping: asyncio.Event
    ) -> None:
        """Answer with what `inference` computes.

        Args:
            find: Returns the loaded version of a model, given its name and number.
            inference: Computes probabilities.
            timed: Times the requests of a stream.
            stopping: Once set, streams read no further request.
        """
        self._find = find
        self._inference = inference
        self._timed = timed
        self._stopping = stopping

    async def Classify(  # noqa: N802
        self, request: pb.ClassifyRequest, context: Any
    ) -> pb.ClassifyResponse:
        """Classify 1 to 64 images, as proto/hansang/v1/classifier.proto specifies."""
        options = CallOptions(
            priority=_priority(request, Priority.INTERACTIVE), deadline_s=deadline_s(context)
        )
        return await self._answer(request, options)

    async def ClassifyStream(  # noqa: N802
        self, requests: AsyncIterator[pb.ClassifyRequest], context: Any
    ) -> AsyncIterator[pb.ClassifyResponse]:
        """Classify the images of many requests, as the proto specifies."""
        ends_s = deadline_s(context)

        async def answer(request: pb.ClassifyRequest) -> pb.ClassifyResponse:
            try:
                with self._timed(context):
                    options = CallOptions(
                        priority=_priority(request, Priority.BULK), deadline_s=ends_s, may_wait=True
                    )
                    return await self._answer(request, options)
            except ServiceError as error:
                return pb.ClassifyResponse(error=status(error))

        may_read = self._inference.budget.wait_for_bulk
        async for response in in_order(requests, answer, self._stopping, may_read):
            yield response

    async def GetModel(self, request: pb.GetModelRequest, context: Any) -> pb.Model:  # noqa: N802, ARG002
        """Describe a loaded version of a model."""
        instance = self._find(request.model, _version(request.version))
        metadata = instance.model.metadata
        return pb.Model(
            name=instance.name,
            version=instance.version,
            labels=metadata.labels,
            image_size_px=metadata.image_size,
            provider=instance.model.provider,
            val_top1=metadata.val_top1,
            test_top1=metadata.test_top1,
            run_id=metadata.run_id,
            properties=instance.model.properties,
            takes_reports=self._inference.capture is not None,
            min_confidence=metadata.min_confidence,
        )

    async def ReportMistake(  # noqa: N802
        self, request: pb.ReportMistakeRequest, context: Any
    ) -> pb.ReportMistakeResponse:
        """Keep a photo that was answered wrongly, as the proto specifies."""
        capture = self._inference.capture
        if capture is None:
            raise NotOfferedError("this server keeps no photos: it was started without --capture")
        instance = self._find(request.model, _version(request.model_version))
        if request.label and request.label not in instance.model.metadata.labels:
            raise InvalidArgumentError(
                f"label: {request.label[:100]!r} is no class of {instance.name}; leave it empty"
                " if it is none of them"
            )
        options = CallOptions(deadline_s=deadline_s(context))
        (row,) = await self._inference.classify(instance, [request.image], options)
        if isinstance(row, ServiceError):
            raise row
        photo: str = await asyncio.wrap_future(
            capture.report(answered(instance, request.image, row), request.label)
        )
        return pb.ReportMistakeResponse(photo=photo)

    async def _answer(
        self, request: pb.ClassifyRequest, options: CallOptions
    ) -> pb.ClassifyResponse:
        num_images = len(request.images)
        if not 1 <= num_images <= MAX_IMAGES_PER_CALL:
            raise InvalidArgumentError(
                f"images: 1 to {MAX_IMAGES_PER_CALL} are accepted in a call, not {num_images}"
            )
        if request.top_k < 0:
            raise InvalidArgumentError(f"top_k: must not be negative, is {request.top_k}")
        instance = self._find(request.model, _version(request.model_version))
        metadata = instance.model.metadata
        top_k = request.top_k or DEFAULT_TOP_K
        rows = await self._inference.classify(instance, list(request.images), options)
        # Filled where they are: to build messages first and copy them in takes twice as long.
        response = pb.ClassifyResponse(model=instance.name, model_version=instance.version)
        for row in rows:
            result = response.results.add()
            if isinstance(row, ServiceError):
                result.error.CopyFrom(Status(code=_number(row.code), message=str(row)))
                continue
            order, probabilities = likeliest(row, top_k), row.tolist()
            add = result.classes.add
            for at in order:
                add(label=metadata.labels[at], probability=probabilities[at], index=at)
            result.below_threshold = metadata.is_unsure(probabilities[order[0]])
        return response


def likeliest(row_K: Row, count: int) -> list[int]:
    """Return the indices of the `count` most probable classes, the most probable first."""
    # A stable sort: classes of equal probability keep the order of their labels.
    order: list[int] = (-row_K).argsort(kind="stable")[:count].tolist()
    return order


def _version(number: int) -> int:
    if number < 0:
        raise InvalidArgumentError(f"version: must not be negative, is {number}")
    return number


def _priority(request: pb.ClassifyRequest, default: Priority) -> Priority:
    given = request.priority
    if given == pb.PRIORITY_UNSPECIFIED:
        return default
    if given == pb.PRIORITY_BULK:
        return Priority.BULK
    if given == pb.PRIORITY_INTERACTIVE:
        return Priority.INTERACTIVE
    raise InvalidArgumentError(f"priority: {given} is none; see hansang.v1.Priority")


def _number(code: StatusCode) -> int:
    number: int = code.value[0]
    return number
