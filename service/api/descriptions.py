"""Loaded models as messages of the Open Inference Protocol: tensors, configuration, statistics."""

from collections.abc import Sequence

from service.api.tensors import INPUT, OUTPUT
from service.config import MAX_IMAGES_PER_CALL
from service.models.instance import ModelInstance
from service.pb import inference_pb2 as pb

PLATFORM = "onnxruntime_onnx"
"""Triton's name for ONNX models that onnxruntime runs."""


def metadata(instance: ModelInstance, versions: Sequence[int]) -> pb.ModelMetadataResponse:
    """Describe the tensors of a model, and list its loaded `versions`."""
    tensor = pb.ModelMetadataResponse.TensorMetadata
    num_classes = len(instance.model.metadata.labels)
    return pb.ModelMetadataResponse(
        name=instance.name,
        versions=[str(version) for version in versions],
        platform=PLATFORM,
        inputs=[tensor(name=INPUT, datatype="BYTES", shape=[-1, 1])],
        outputs=[tensor(name=OUTPUT, datatype="FP32", shape=[-1, num_classes])],
    )


def config(instance: ModelInstance, *, max_delay_ms: float) -> pb.ModelConfig:
    """Describe how this server serves a model, in the terms of config.pbtxt."""
    side = instance.model.metadata.image_size
    return pb.ModelConfig(
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
        # An input has one type alone, and this server takes two.
        parameters={f"{INPUT}.UINT8": pb.ModelParameter(string_value=str([-1, side, side, 3]))},
        dynamic_batching=pb.ModelDynamicBatching(
            max_queue_delay_microseconds=int(max_delay_ms * 1000),
            priority_levels=2,
            default_priority_level=1,
        ),
    )


def statistics(instance: ModelInstance) -> pb.ModelStatistics:
    """Return what was counted of a version."""

    def duration(seconds: float, count: int) -> pb.StatisticDuration:
        return pb.StatisticDuration(count=count, ns=int(seconds * 1e9))

    counted = instance.statistics
    stages_s, calls = counted.stages_s, counted.calls
    return pb.ModelStatistics(
        name=instance.name,
        version=str(instance.version),
        last_inference=counted.last_at_ms,
        inference_count=counted.images,
        execution_count=instance.batcher.runs.count,
        inference_stats=pb.InferStatistics(
            success=duration(stages_s["call"], calls),
            fail=duration(counted.failed_s, counted.failed_calls),
            queue=duration(stages_s["queue"], calls),
            compute_input=duration(stages_s["decode"], calls),
            compute_infer=duration(stages_s["compute"], calls),
            compute_output=duration(stages_s["answer"], calls),
        ),
    )
