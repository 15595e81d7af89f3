"""gRPC statuses: how an error is sent to the caller, and what a call ended with."""

import math
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from grpc import StatusCode

from service.errors import ServiceError

_MAX_MESSAGE = 1024


def status(error: ServiceError) -> Status:
    """Return an error as `google.rpc.Status`, with RetryInfo where a retry may succeed."""
    found = Status(code=error.code.value[0], message=_short(error))
    if error.retry_after_s is not None:
        delay = Duration()
        delay.FromNanoseconds(int(error.retry_after_s * 1e9))
        found.details.add().Pack(RetryInfo(retry_delay=delay))
    return found


async def abort(context: Any, error: ServiceError) -> None:
    """End a call with the status of an error."""
    details: tuple[tuple[str, str | bytes], ...] = ()
    if error.retry_after_s is not None:
        details = (
            # Where gRPC clients look for the details of an error, and where their own retries do.
            ("grpc-status-details-bin", status(error).SerializeToString()),
            ("grpc-retry-pushback-ms", str(math.ceil(1000 * error.retry_after_s))),
        )
    await context.abort(error.code, _short(error), details)


def _short(error: ServiceError) -> str:
    """Return the message in 1 kB: it may repeat a name of any length, and metadata is bounded."""
    return str(error).encode()[:_MAX_MESSAGE].decode(errors="ignore")


def gone(context: Any) -> StatusCode:
    """Return why a call was cancelled: by its deadline, or by its caller."""
    remaining_s = context.time_remaining()
    late = remaining_s is not None and remaining_s <= 0
    return StatusCode.DEADLINE_EXCEEDED if late else StatusCode.CANCELLED


def code_of(context: Any) -> StatusCode:
    """Return the status that a call was aborted with."""
    code = context.code()
    return code if isinstance(code, StatusCode) else StatusCode.UNKNOWN
