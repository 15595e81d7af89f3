"""`inference.GRPCInferenceService`: the Open Inference Protocol, for clients made for Triton.

What it means is in proto/inference/inference.proto; how tensors are read and written, in
service/api/tensors.py. It shares models and limits with `hansang.v1.Classifier`.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from service import __version__
from service.api.auth import caller
from service.api.classifier import likeliest
from service.api.inference import CallOptions, Inference
from service.api.interceptors import Timed, deadline_s
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
from service.config import MAX_IMAGES_PER_CALL
from service.errors import ForbiddenError, InvalidArgumentError, ServiceError
from service.models.instance import ModelInstance
from service.models.pool import ModelPool
from service.pb import inference_pb2 as pb
from service.pb import inference_pb2_grpc as pb_grpc

PLATFORM = "onnxruntime_onnx"
EXTENSIONS = ("classification", "model_configuration", "statistics", "model_repository")


@dataclass(frozen=True, kw_only=True)
class Control:
    """What the service may know of its server, and do to it."""

    ready: Callable[[], bool]
    """Whether calls are taken."""
    allowed: bool
    """Whether models may be loaded and unloaded at all."""
    max_delay_ms: float


class OpenInferenceServicer(pb_grpc.GRPCInferenceServiceServicer):
    """Answers with tensors."""

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
        """Answer."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any, context: Any) -> pb.ServerReadyResponse:  # noqa: N802, ARG002
        """Say whether calls are taken."""
        return pb.ServerReadyResponse(ready=self._control.ready())

    async def ModelReady(  # noqa: N802
        self, request: pb.ModelReadyRequest, context: Any
    ) -> pb.ModelReadyResponse:
        """Say whether a version of a model answers."""
        del context
        try:
            instance = self._find(request.name, request.version)
        except ServiceError:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=not instance.fault)

    async def ServerMetadata(self, request: Any, context: Any) -> pb.ServerMetadataResponse:  # noqa: N802, ARG002
        """Name the server."""
        return pb.ServerMetadataResponse(name="hansang", version=__version__, extensions=EXTENSIONS)

    async def ModelMetadata(  # noqa: N802
        self, request: pb.ModelMetadataRequest, context: Any
    ) -> pb.ModelMetadataResponse:
        """Describe the tensors of a model."""
        del context
        instance = self._find(request.name, request.version)
        tensor = pb.ModelMetadataResponse.TensorMetadata
        return pb.ModelMetadataResponse(
            name=instance.name,
            versions=[str(e.version) for e in self._pool.loaded if e.name == instance.name],
            platform=PLATFORM,
            inputs=[tensor(name=INPUT, datatype="BYTES", shape=[-1, 1])],
            outputs=[
                tensor(
                    name=OUTPUT, datatype="FP32", shape=[-1, len(instance.model.metadata.labels)]
                )
            ],
        )

    async def ModelConfig(  # noqa: N802
        self, request: pb.ModelConfigRequest, context: Any
    ) -> pb.ModelConfigResponse:
        """Describe a model as its config.pbtxt would."""
        del context
        instance = self._find(request.name, request.version)
        return pb.ModelConfigResponse(
            config=pb.ModelConfig(
                name=instance.name,
                platform=PLATFORM,
                backend="onnxruntime",
                version_policy=pb.ModelVersionPolicy(
                    specific=pb.ModelVersionPolicy.Specific(versions=[instance.version])
                ),
                max_batch_size=MAX_IMAGES_PER_CALL,
                input=[pb.ModelInput(name=INPUT, data_type=pb.TYPE_STRING, dims=[1])],
                output=[
                    pb.ModelOutput(
                        name=OUTPUT,
                        data_type=pb.TYPE_FP32,
                        dims=[len(instance.model.metadata.labels)],
                        label_filename=f"{instance.version}/labels.txt",
                    )
                ],
                dynamic_batching=pb.ModelDynamicBatching(
                    max_queue_delay_microseconds=int(self._control.max_delay_ms * 1000),
                    priority_levels=2,
                    default_priority_level=1,
                ),
            )
        )

    async def ModelInfer(  # noqa: N802
        self, request: pb.ModelInferRequest, context: Any
    ) -> pb.ModelInferResponse:
        """Compute one answer."""
        return await self._infer(request, CallOptions(deadline_s=deadline_s(context)))

    async def ModelStreamInfer(  # noqa: N802
        self, requests: AsyncIterator[pb.ModelInferRequest], context: Any
    ) -> AsyncIterator[pb.ModelStreamInferResponse]:
        """Compute an answer for each request of a stream."""
        options = CallOptions(deadline_s=deadline_s(context), priority=Priority.BULK, may_wait=True)

        async def answer(request: pb.ModelInferRequest) -> pb.ModelStreamInferResponse:
            message = ""
            with self._timed(context) as ended:
                try:
                    response = await self._infer(request, options)
                    return pb.ModelStreamInferResponse(infer_response=response)
                except ServiceError as error:
                    message = f"{error.code.name}: {error}"
                    ended(error.code)
            return pb.ModelStreamInferResponse(
                error_message=message, infer_response=pb.ModelInferResponse(id=request.id)
            )

        async for response in in_order(requests, answer, self._stopping):
            yield response

    async def ModelStatistics(  # noqa: N802
        self, request: pb.ModelStatisticsRequest, context: Any
    ) -> pb.ModelStatisticsResponse:
        """Count and time what was computed."""
        del context
        if request.name:
            self._find(request.name, request.version)
        return pb.ModelStatisticsResponse(
            model_stats=[
                _statistics(instance)
                for instance in self._pool.loaded
                if request.name in ("", instance.name)
                and request.version in ("", str(instance.version))
            ]
        )

    async def RepositoryIndex(  # noqa: N802
        self, request: pb.RepositoryIndexRequest, context: Any
    ) -> pb.RepositoryIndexResponse:
        """List the models of the repository."""
        del context
        model = pb.RepositoryIndexResponse.ModelIndex
        found = [
            model(
                name=each.name,
                version=str(each.version),
                state="UNAVAILABLE" if each.fault else "READY",
                reason=each.fault,
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
        """Load what the repository says serves."""
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
        """Serve a model no more."""
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
    """Return the rows; the protocol has no place for an error beside them."""
    bad = [f"element {at}: {row}" for at, row in enumerate(rows) if isinstance(row, ServiceError)]
    if bad:
        raise InvalidArgumentError(f"{INPUT}: {'; '.join(bad)}")
    return [row for row in rows if not isinstance(row, ServiceError)]


def _statistics(instance: ModelInstance) -> pb.ModelStatistics:
    of = instance.statistics

    def duration(seconds: float, count: int) -> pb.StatisticDuration:
        return pb.StatisticDuration(count=count, ns=int(seconds * 1e9))

    return pb.ModelStatistics(
        name=instance.name,
        version=str(instance.version),
        last_inference=of.last_at_ms,
        inference_count=of.images,
        execution_count=instance.batcher.runs.count,
        inference_stats=pb.InferStatistics(
            success=duration(of.stages_s["call"], of.calls),
            fail=duration(of.failed_s, of.failed_calls),
            queue=duration(of.stages_s["queue"], of.calls),
            compute_input=duration(of.stages_s["decode"], of.calls),
            compute_infer=duration(of.stages_s["compute"], of.calls),
            compute_output=duration(of.stages_s["answer"], of.calls),
        ),
    )
