"""Errors as HTTP knows them: RFC 9457 problems, with the sentences that gRPC callers get.

`error` repeats `detail`, since clients of the Open Inference Protocol look there.
"""

import json
import math
from http import HTTPStatus
from typing import Any

from grpc import StatusCode
from starlette.responses import Response

from service.errors import InvalidArgumentError, ServiceError

STATUS = {
    StatusCode.INVALID_ARGUMENT: 400,
    StatusCode.FAILED_PRECONDITION: 400,
    StatusCode.UNAUTHENTICATED: 401,
    StatusCode.PERMISSION_DENIED: 403,
    StatusCode.NOT_FOUND: 404,
    StatusCode.ABORTED: 409,
    StatusCode.RESOURCE_EXHAUSTED: 429,
    StatusCode.CANCELLED: 499,
    StatusCode.INTERNAL: 500,
    StatusCode.UNIMPLEMENTED: 501,
    StatusCode.UNAVAILABLE: 503,
    StatusCode.DEADLINE_EXCEEDED: 504,
}
"""google.rpc.Code → HTTP, as `google/rpc/code.proto` maps them."""


class HttpError(InvalidArgumentError):
    """The request is wrong in a way that only HTTP has a status for."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def problem(error: ServiceError, *, close: bool = False) -> Response:
    """Return an error as a response; `close` ends the connection, whose body is not read on."""
    status = error.status if isinstance(error, HttpError) else STATUS[error.code]
    headers: dict[str, str] = {}
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": _title(status),
        "status": status,
        "detail": str(error),
        "code": error.code.name,
        "error": str(error),
    }
    if error.retry_after_s is not None:
        body["retryAfterS"] = round(error.retry_after_s, 3)
        headers["retry-after"] = str(math.ceil(error.retry_after_s))
    if status == HTTPStatus.UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"
    if close:
        headers["connection"] = "close"
    return Response(
        json.dumps(body, ensure_ascii=False).encode(),
        status,
        headers=headers,
        media_type="application/problem+json",
    )


def _title(status: int) -> str:
    return "Client Closed Request" if status == 499 else HTTPStatus(status).phrase
