"""One HTTP request as one call of a gRPC method: same interceptor, same servicer, same limits."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from time import monotonic
from typing import Any, cast

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from service.api.interceptors import CallInterceptor
from service.errors import ServiceError, UnavailableError
from service.http.problems import HttpError, problem

TIMEOUT_HEADER = "x-request-timeout-ms"
_UNREAD = 64 * 2**10
"""Bytes of an unread body that are worth keeping a connection for."""

Read = Callable[[], Awaitable[Any]]
"""Reads a request's body, and returns the message that a gRPC client would have sent."""


class HttpContext:
    """What a method asks of its call: the part of gRPC's ServicerContext that is used."""

    def __init__(self, request: Request) -> None:
        self._metadata = tuple(request.headers.items())
        self._client = request.client
        self._ends_s = _deadline_s(request)

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        """Return the headers."""
        return self._metadata

    def time_remaining(self) -> float | None:
        """Return the seconds that the caller still waits, or None where it did not say."""
        return None if self._ends_s is None else self._ends_s - monotonic()

    def peer(self) -> str:
        """Return who calls, in gRPC's form."""
        return f"{self._client.host}:{self._client.port}" if self._client else ""


class Calls:
    """Answers requests by the methods of the gRPC services."""

    def __init__(self, interceptor: CallInterceptor) -> None:
        """Share the interceptor of the gRPC server."""
        self._interceptor = interceptor

    async def answer(
        self,
        request: Request,
        method: str,
        read: Read,
        handler: Callable[[Any, Any], Awaitable[Any]],
        write: Callable[[Any], Response],
    ) -> Response:
        """Return the response to a request, or the problem with it.

        A caller that goes cancels its call, as with gRPC.

        Args:
            request: What came.
            method: The gRPC method's full name, by which the call is counted and traced.
            read: Reads the body; called once the caller is known and its call is admitted.
            handler: The method of the servicer.
            write: Makes a response of its answer.
        """
        watching: asyncio.Task[None] | None = None
        call = cast("asyncio.Task[Any]", asyncio.current_task())

        gone = False

        async def message() -> Any:
            nonlocal watching, gone
            try:
                found = await read()
            except ClientDisconnect:
                gone = True
                raise asyncio.CancelledError from None
            watching = asyncio.create_task(_watch(request, call))
            return found

        try:
            context = HttpContext(request)
            return write(await self._interceptor.answer(method, context, message, handler))
        except ServiceError as error:
            return problem(error, close=watching is None and _is_long(request))
        except asyncio.CancelledError:
            if call.cancelling():
                call.uncancel()
            if gone or (watching is not None and watching.done()):
                return Response(status_code=499)  # nobody reads it
            # Cut off by the end of a drain.
            return problem(
                UnavailableError("the server has ended; call again elsewhere", retry_after_s=0),
                close=True,
            )
        finally:
            if watching is not None:
                watching.cancel()


async def _watch(request: Request, call: "asyncio.Task[Any]") -> None:
    """Cancel a call when its caller goes."""
    with suppress(asyncio.CancelledError):
        while (await request.receive())["type"] != "http.disconnect":
            pass
        call.cancel()


def _deadline_s(request: Request) -> float | None:
    told = request.headers.get(TIMEOUT_HEADER)
    if told is None:
        return None
    if not (told.isascii() and told.isdigit() and len(told) <= 9):
        raise HttpError(400, f"{TIMEOUT_HEADER}: {told!r} is no number of milliseconds")
    return monotonic() + int(told) / 1000


def _is_long(request: Request) -> bool:
    told = request.headers.get("content-length")
    return "transfer-encoding" in request.headers or int(told or 0) > _UNREAD
