"""Errors over HTTP: RFC 9457 problems with the same messages as over gRPC.

`error` repeats `detail`, because clients of the Open Inference Protocol read that field.
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
    """A wrong request for which only HTTP has a status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def problem(error: ServiceError, *, close: bool = False) -> Response:
    """Return an error as a response; `close` ends a connection whose body was not read."""
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
    if close or status == HTTPStatus.REQUEST_TIMEOUT:
        headers["connection"] = "close"
    return Response(
        json.dumps(body, ensure_ascii=False).encode(),
        status,
        headers=headers,
        media_type="application/problem+json",
    )


def _title(status: int) -> str:
    return "Client Closed Request" if status == 499 else HTTPStatus(status).phrase
