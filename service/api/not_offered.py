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


class NotOffered(pb_grpc.GRPCInferenceServiceServicer):
    """Methods of extensions that have nothing to tell here, as proto/inference specifies."""

    async def SystemSharedMemoryStatus(  # noqa: N802
        self, request: Any, context: Any
    ) -> pb.SystemSharedMemoryStatusResponse:
        """List no region."""
        del request, context
        return pb.SystemSharedMemoryStatusResponse()

    async def SystemSharedMemoryRegister(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Refuse to use a region."""
        del request, context
        raise InvalidArgumentError(_SHARED_MEMORY)

    async def SystemSharedMemoryUnregister(  # noqa: N802
        self, request: Any, context: Any
    ) -> pb.SystemSharedMemoryUnregisterResponse:
        """Forget a region, of which there is none."""
        del request, context
        return pb.SystemSharedMemoryUnregisterResponse()

    async def CudaSharedMemoryStatus(  # noqa: N802
        self, request: Any, context: Any
    ) -> pb.CudaSharedMemoryStatusResponse:
        """List no region."""
        del request, context
        return pb.CudaSharedMemoryStatusResponse()

    async def CudaSharedMemoryRegister(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Refuse to use a region."""
        del request, context
        raise InvalidArgumentError(_SHARED_MEMORY)

    async def CudaSharedMemoryUnregister(  # noqa: N802
        self, request: Any, context: Any
    ) -> pb.CudaSharedMemoryUnregisterResponse:
        """Forget a region, of which there is none."""
        del request, context
        return pb.CudaSharedMemoryUnregisterResponse()

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
