"""`inference.GRPCInferenceService`: the Open Inference Protocol, for clients made for Triton.

proto/inference/inference.proto says what each message means here. tensors.py reads and writes its
tensors, and descriptions.py describes models. Models and limits are those of the Classifier, too.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from service import __version__
from service.api import descriptions
from service.api.auth import caller
from service.api.classifier import likeliest
from service.api.inference import CallOptions, Inference
from service.api.interceptors import Timed, deadline_s
from service.api.not_offered import NotOffered
from service.api.streams import in_order
from service.api.tensors import (
    INPUT,
    OUTPUT,
    count_of_classes,
    read_images,
    read_options,
    write_classes,
    write_rows,
)
from service.batching.batcher import Row
from service.batching.priority_queue import Priority
from service.errors import ForbiddenError, InvalidArgumentError, ServiceError
from service.models.instance import ModelInstance
from service.models.pool import ModelPool
from service.pb import inference_pb2 as pb

EXTENSIONS = ("classification", "model_configuration", "statistics", "model_repository")


@dataclass(frozen=True, kw_only=True)
class Control:
    """What the service may learn from its server, and change in it."""

    ready: Callable[[], bool]
    """Returns whether the server takes calls."""
    allowed: bool
    """Whether any caller may load and unload models."""
    max_delay_ms: float
    """Longest wait of a batch for more images, which ModelConfig reports."""


class OpenInferenceServicer(NotOffered):
    """Answers Triton's clients; every method is specified in proto/inference/inference.proto."""

    def __init__(
        self,
        pool: ModelPool,
        inference: Inference,
        timed: Timed,
        stopping: asyncio.Event,
        control: Control,
    ) -> None:
        """Serve the models of a pool; the other arguments are those of `ClassifierServicer`."""
        self._pool = pool
        self._inference = inference
        self._timed = timed
        self._stopping = stopping
        self._control = control

    async def ServerLive(self, request: Any, context: Any) -> pb.ServerLiveResponse:  # noqa: N802, ARG002
        """Return true: a process that answers is alive."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any, context: Any) -> pb.ServerReadyResponse:  # noqa: N802, ARG002
        """Return whether the server takes calls."""
        return pb.ServerReadyResponse(ready=self._control.ready())

    async def ModelReady(  # noqa: N802
        self, request: pb.ModelReadyRequest, context: Any
    ) -> pb.ModelReadyResponse:
        """Return whether a version of a model is loaded and works."""
        del context
        try:
            instance = self._find(request.name, request.version)
        except ServiceError:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=not instance.fault)

    async def ServerMetadata(self, request: Any, context: Any) -> pb.ServerMetadataResponse:  # noqa: N802, ARG002
        """Return the server's name, version and extensions of the protocol."""
        return pb.ServerMetadataResponse(name="hansang", version=__version__, extensions=EXTENSIONS)

    async def ModelMetadata(  # noqa: N802
        self, request: pb.ModelMetadataRequest, context: Any
    ) -> pb.ModelMetadataResponse:
        """Describe the tensors of a model."""
        del context
        instance = self._find(request.name, request.version)
        versions = [each.version for each in self._pool.loaded if each.name == instance.name]
        return descriptions.metadata(instance, versions)

    async def ModelConfig(  # noqa: N802
        self, request: pb.ModelConfigRequest, context: Any
    ) -> pb.ModelConfigResponse:
        """Describe how a model is served, in the terms of config.pbtxt."""
        del context
        instance = self._find(request.name, request.version)
        config = descriptions.config(instance, max_delay_ms=self._control.max_delay_ms)
        return pb.ModelConfigResponse(config=config)

    async def ModelInfer(  # noqa: N802
        self, request: pb.ModelInferRequest, context: Any
    ) -> pb.ModelInferResponse:
        """Compute the probabilities of one request."""
        return await self._infer(request, CallOptions(deadline_s=deadline_s(context)))

    async def ModelStreamInfer(  # noqa: N802
        self, requests: AsyncIterator[pb.ModelInferRequest], context: Any
    ) -> AsyncIterator[pb.ModelStreamInferResponse]:
        """Compute the probabilities of each request of a stream; an error ends only its request."""
        options = CallOptions(deadline_s=deadline_s(context), priority=Priority.BULK, may_wait=True)

        async def answer(request: pb.ModelInferRequest) -> pb.ModelStreamInferResponse:
            try:
                with self._timed(context):
                    response = await self._infer(request, options)
                    return pb.ModelStreamInferResponse(infer_response=response)
            except ServiceError as error:
                return pb.ModelStreamInferResponse(
                    error_message=f"{error.code.name}: {error}",
                    infer_response=pb.ModelInferResponse(id=request.id),
                )

        may_read = self._inference.budget.wait_for_bulk
        async for response in in_order(requests, answer, self._stopping, may_read):
            yield response

    async def ModelStatistics(  # noqa: N802
        self, request: pb.ModelStatisticsRequest, context: Any
    ) -> pb.ModelStatisticsResponse:
        """Return what loaded versions computed, and how long the stages took."""
        del context
        if request.name:
            self._find(request.name, request.version)
        return pb.ModelStatisticsResponse(
            model_stats=[
                descriptions.statistics(instance)
                for instance in self._pool.loaded
                if request.name in ("", instance.name)
                and request.version in ("", str(instance.version))
            ]
        )

    async def RepositoryIndex(  # noqa: N802
        self, request: pb.RepositoryIndexRequest, context: Any
    ) -> pb.RepositoryIndexResponse:
        """List the models of the repository, loaded or not, with their states."""
        del context
        model = pb.RepositoryIndexResponse.ModelIndex
        found = [
            model(
                name=each.name,
                version=str(each.version),
                state="UNAVAILABLE" if each.fault else "READY",
                reason=each.fault or self._pool.refusals.get(each.name, ""),
            )
            for each in self._pool.loaded
        ]
        loaded = {each.name for each in self._pool.loaded}
        names = await asyncio.to_thread(self._pool.repository.models)
        found += [
            model(
                name=name,
                state="UNAVAILABLE",
                reason=self._pool.refusals.get(name) or "not loaded",
            )
            for name in names
            if name not in loaded
        ]
        if request.ready:
            found = [each for each in found if each.state == "READY"]
        return pb.RepositoryIndexResponse(models=found)

    async def RepositoryModelLoad(  # noqa: N802
        self, request: pb.RepositoryModelLoadRequest, context: Any
    ) -> pb.RepositoryModelLoadResponse:
        """Load the version that the repository says is to serve."""
        del context
        self._check_control()
        if request.parameters:
            raise InvalidArgumentError(
                "parameters: none is taken; what a model is stands in the repository"
            )
        await self._pool.load_model(request.model_name)
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(  # noqa: N802
        self, request: pb.RepositoryModelUnloadRequest, context: Any
    ) -> pb.RepositoryModelUnloadResponse:
        """Stop serving a model until it is loaded again."""
        del context
        self._check_control()
        await self._pool.unload_model(request.model_name)
        return pb.RepositoryModelUnloadResponse()

    def _check_control(self) -> None:
        if not self._control.allowed:
            raise ForbiddenError("this server was started without --model-control")
        if not caller.get().admin:
            raise ForbiddenError(f"{caller.get().name} may not load or unload models")

    def _find(self, name: str, version: str) -> ModelInstance:
        # A version is a number and never a path.
        if version and not (version.isascii() and version.isdigit() and len(version) <= 18):
            raise InvalidArgumentError(f"version: {version!r} is no number")
        return self._pool.find(name, int(version or 0))

    async def _infer(
        self, request: pb.ModelInferRequest, options: CallOptions
    ) -> pb.ModelInferResponse:
        instance = self._find(request.model_name, request.model_version)
        counts = [count_of_classes(output) for output in request.outputs] or [0]
        if len(counts) > 1:
            raise InvalidArgumentError(f"outputs: {OUTPUT!r} is asked for {len(counts)} times")
        images = read_images(request, instance.model.metadata.image_size)
        typed = not request.raw_input_contents
        options = read_options(request, options)
        if isinstance(images, list):
            rows = _all_good(await self._inference.classify(instance, images, options))
        else:
            rows = _all_good(await self._inference.compute(instance, images, options))
        response = pb.ModelInferResponse(
            model_name=instance.name, model_version=str(instance.version), id=request.id
        )
        if counts == [0]:
            write_rows(response, rows, typed=typed)
        else:
            labels = instance.model.metadata.labels
            texts = [
                [f"{row[index]:f}:{index}:{labels[index]}" for index in likeliest(row, counts[0])]
                for row in rows
            ]
            write_classes(response, texts, typed=typed)
        return response


def _all_good(rows: list[Row | ServiceError]) -> list[Row]:
    """Return the rows; the protocol cannot answer part of a request with an error."""
    bad = [f"element {at}: {row}" for at, row in enumerate(rows) if isinstance(row, ServiceError)]
    if bad:
        raise InvalidArgumentError(f"{INPUT}: {'; '.join(bad)}")
    return [row for row in rows if not isinstance(row, ServiceError)]
