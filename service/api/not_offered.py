"""What Triton's clients ask for and this server does not do: shared memory, settings at run time.

To look is answered with nothing, as is to let go; clients do both when they begin and end. To ask
for more is refused.
"""

from typing import Any

from service.errors import InvalidArgumentError
from service.pb import inference_pb2 as pb
from service.pb import inference_pb2_grpc as pb_grpc

_SHARED_MEMORY = (
    "shared memory is not offered; send the tensors themselves, as encoded photos or UINT8"
)


def _answering(kind: Any) -> Any:
    """Return a method that answers with an empty message of this kind."""

    async def method(servicer: Any, request: Any, context: Any) -> Any:
        del servicer, request, context
        return kind()

    return method


async def _refusing(servicer: Any, request: Any, context: Any) -> Any:
    """Refuse to use a region."""
    del servicer, request, context
    raise InvalidArgumentError(_SHARED_MEMORY)


class NotOffered(pb_grpc.GRPCInferenceServiceServicer):
    """Methods of extensions that have nothing to tell here, as proto/inference specifies."""

    SystemSharedMemoryStatus = _answering(pb.SystemSharedMemoryStatusResponse)
    SystemSharedMemoryUnregister = _answering(pb.SystemSharedMemoryUnregisterResponse)
    SystemSharedMemoryRegister = _refusing
    CudaSharedMemoryStatus = _answering(pb.CudaSharedMemoryStatusResponse)
    CudaSharedMemoryUnregister = _answering(pb.CudaSharedMemoryUnregisterResponse)
    CudaSharedMemoryRegister = _refusing

    async def TraceSetting(  # noqa: N802
        self, request: pb.TraceSettingRequest, context: Any
    ) -> pb.TraceSettingResponse:
        """List no setting, and refuse to set any."""
        del context
        if request.settings:
            raise InvalidArgumentError(
                "traces are not set by calls; start the server with --otlp-endpoint"
            )
        return pb.TraceSettingResponse()

    async def LogSettings(  # noqa: N802
        self, request: pb.LogSettingsRequest, context: Any
    ) -> pb.LogSettingsResponse:
        """List no setting, and refuse to set any."""
        del context
        if request.settings:
            raise InvalidArgumentError(
                "logs are not set by calls; start the server with --log-level and --log-format"
            )
        return pb.LogSettingsResponse()
