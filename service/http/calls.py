"""One HTTP request as one call of a gRPC method: same interceptor, same servicer, same limits."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from time import monotonic
from typing import Any, cast

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from service.api.interceptors import CallInterceptor
from service.errors import ServiceError, UnavailableError
from service.http.problems import HttpError, problem

TIMEOUT_HEADER = "x-request-timeout-ms"
_UNREAD = 2**20
"""If at most so many bytes of a body are unread, the connection is kept."""

Read = Callable[[], Awaitable[Any]]
"""Reads a request's body, and returns the message that a gRPC client would have sent."""


class HttpContext:
    """The part of gRPC's ServicerContext that our methods use."""

    def __init__(self, request: Request) -> None:
        self._metadata = tuple(request.headers.items())
        self._client = request.client
        self._ends_s = _deadline_s(request.headers)

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        """Return the headers."""
        return self._metadata

    def time_remaining(self) -> float | None:
        """Return how many seconds the caller still waits; None if it did not say."""
        return None if self._ends_s is None else self._ends_s - monotonic()

    def peer(self) -> str:
        """Return the caller's address, in gRPC's form."""
        return f"{self._client.host}:{self._client.port}" if self._client else ""


class Calls:
    """Answers requests with the methods of the gRPC services."""

    def __init__(self, interceptor: CallInterceptor) -> None:
        """Share the interceptor of the gRPC server."""
        self._interceptor = interceptor

    def refusal(self, headers: Headers, method: str) -> Response | None:
        """Return a full server's refusal of a call, on its headers alone; None: answer it.

        Calls for the pages of a site are left to `answer`: their refusal has more headers.
        """
        if "origin" in headers:
            return None
        try:
            ends_s = _deadline_s(headers)
        except HttpError:
            return None
        refusal = self._interceptor.refusal(method, math.inf if ends_s is None else ends_s)
        return None if refusal is None else problem(refusal, close=_ends(headers))

    async def answer(
        self,
        request: Request,
        method: str,
        read: Read,
        handler: Callable[[Any, Any], Awaitable[Any]],
        write: Callable[[Any], Response],
    ) -> Response:
        """Return the response to a request, or the problem with it.

        If the caller leaves, its call is cancelled, as with gRPC.

        Args:
            request: The request.
            method: The gRPC method's full name, by which the call is counted and traced.
            read: Reads the body; called once the caller is known and its call is admitted.
            handler: The method of the servicer.
            write: Makes a response of the answer.
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
            return problem(error, close=watching is None and _ends(request.headers))
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
    """Cancel a call when its caller leaves."""
    with suppress(asyncio.CancelledError):
        while (await request.receive())["type"] != "http.disconnect":
            pass
        call.cancel()


def _deadline_s(headers: Headers) -> float | None:
    text = headers.get(TIMEOUT_HEADER)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise HttpError(400, f"{TIMEOUT_HEADER}: {text!r} is no number of milliseconds")
    return monotonic() + int(text) / 1000


def _ends(headers: Headers) -> bool:
    # Who expects to be told to go on may or may not send a body that nobody wants.
    if "transfer-encoding" in headers or "expect" in headers:
        return True
    return int(headers.get("content-length", 0)) > _UNREAD
