"""The one place that every call passes: it identifies, counts, times and logs calls.

admission check ─► request id, span ─► caller's token ─► message ─► method ─► status, metrics, log

A full server refuses a call before it reads the message, with as little work as possible: what
refusals cost is taken from the calls that are admitted.
"""

import asyncio
import inspect
import itertools
import logging
import math
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, aclosing, contextmanager
from functools import cache, partial
from time import monotonic, perf_counter
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc import StatusCode

from service.api.auth import Tokens, caller
from service.api.open_calls import HEALTH, OpenCalls
from service.api.statuses import abort, code_of, gone
from service.batching.byte_budget import ByteBudget
from service.errors import InvalidArgumentError, OverloadedError, ServiceError
from service.observability.logs import request_id
from service.observability.metrics import Metrics
from service.observability.tracing import NoTracing, Tracing

logger = logging.getLogger(__name__)

_MAX_ID = 128
_FIRST_S = 30.0
"""How long the first message of a stream may take."""

_PROCESS = uuid.uuid4().hex[:8]
_numbers = itertools.count()

AdmissionCheck = Callable[[float], ServiceError | None]
"""Takes a call's deadline (`time.monotonic`); returns why it is refused, or None."""

Timed = Callable[[Any], AbstractContextManager[None]]
"""Times one request of a stream, given its context. Nothing but ServiceError comes out of it."""


class CallInterceptor:
    """Wraps every method: known errors keep their message, unknown ones reveal nothing."""

    def __init__(
        self,
        metrics: Metrics,
        *,
        tokens: Tokens | None = None,
        tracing: Tracing | None = None,
        budget: ByteBudget | None = None,
        largest: int = 16 * 2**20,
        max_streams: int = 32,
        admission_checks: Mapping[str, AdmissionCheck] | None = None,
    ) -> None:
        """Wrap the methods of one server.

        Args:
            metrics: Where calls are counted.
            tokens: Who may call; None: anyone.
            tracing: Where spans go.
            budget: Bounds the bytes that are read; None: 256 MiB, of this interceptor alone.
            largest: Most bytes of a message.
            max_streams: Most streams open at a time.
            admission_checks: Method → what may refuse its calls before they are read.
        """
        self._metrics = metrics
        # Looking a label up takes as long as counting does.
        self._seconds = cache(metrics.request_seconds.labels)
        self._tokens = tokens or Tokens(None)
        self._tracing = tracing or NoTracing()
        self._admission_checks = admission_checks or {}
        budget = budget or ByteBudget(256 * 2**20, metrics, largest=largest)
        self._open = OpenCalls(metrics, budget=budget, largest=largest, max_streams=max_streams)

    def wrapped(self, method: str, handler: Any) -> Any:
        """Return a gRPC method's handler, wrapped; `method` is its full name."""
        if handler.unary_unary is not None:
            return grpc.stream_unary_rpc_method_handler(
                self._unary(method, handler.unary_unary),
                handler.request_deserializer,
                handler.response_serializer,
            )
        stream = handler.unary_stream or handler.stream_stream
        if not inspect.isasyncgenfunction(stream):
            return handler

        async def streaming(requests: Any, context: Any) -> AsyncIterator[Any]:
            try:
                with (
                    self._open.call(method),
                    self._call(method, context, timed=False),
                    self._open.stream(method),
                ):
                    if handler.unary_stream is not None:
                        given = await self._open.message(method, context)
                    else:
                        given = self._checked(requests, context)
                    # Closed when the caller leaves, and not at the next garbage collection.
                    async with aclosing(stream(given, context)) as responses:
                        async for response in responses:
                            yield response
            except ServiceError as error:
                await abort(context, error)

        return grpc.stream_stream_rpc_method_handler(
            streaming, handler.request_deserializer, handler.response_serializer
        )

    async def _checked(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        """Yield the requests of a stream, each only while the caller's token is known.

        A stream has a place from its start, so the first request must come soon; later ones may
        take their time.
        """
        metadata = _texts(context)
        left_s: float | None = _FIRST_S
        try:
            while True:
                async with asyncio.timeout(left_s):
                    request = await anext(requests)
                left_s = None
                self._tokens.identify(metadata)
                yield request
        except StopAsyncIteration:
            return
        except TimeoutError:
            self._metrics.rejected_images.labels("message_slow").inc()
            raise OverloadedError(
                f"no message came within {_FIRST_S:g} s; open a stream when there is one to send"
            ) from None
        except DecodeError as error:
            raise InvalidArgumentError(f"a message cannot be read: {error}") from error

    def _unary(
        self, method: str, inner: Callable[[Any, Any], Awaitable[Any]]
    ) -> Callable[[Any, Any], Awaitable[Any]]:
        """Return a method of one request as a streaming one, which reads its request itself.

        Both are the same on the wire. For a unary method gRPC reads the whole message, images
        included, before our code can refuse the call.
        """

        async def unary(_: Any, context: Any) -> Any:
            try:
                read = partial(self._open.message, method, context)
                return await self.answer(method, context, read, inner)
            except ServiceError as error:
                return await abort(context, error)

        return unary

    def refusal(self, method: str, ends_s: float) -> ServiceError | None:
        """Return why a full server refuses a call, and count it; None: it takes the call.

        Args:
            method: Its full name, `/package.Service/Method`.
            ends_s: Its deadline, on the clock of `time.monotonic`.
        """
        check = self._admission_checks.get(method)
        refusal = None if check is None else check(ends_s)
        if refusal is not None:
            self._seconds(method, refusal.code.name).observe(0)
        return refusal

    async def answer(
        self,
        method: str,
        context: Any,
        read: Callable[[], Awaitable[Any]],
        handler: Callable[[Any, Any], Awaitable[Any]],
    ) -> Any:
        """Answer one call, over gRPC or HTTP: check, identify, read, handle, count.

        Args:
            method: Its full name, `/package.Service/Method`.
            context: As gRPC's; HTTP's has `invocation_metadata`, `time_remaining` and `peer`.
            read: Reads the message, once the call is admitted.
            handler: The servicer's method.

        Raises:
            ServiceError: The call is refused, or failed; an unknown error says nothing of itself.
        """
        if refusal := self.refusal(method, deadline_s(context)):
            raise refusal
        with self._open.call(method), self._call(method, context, timed=True):
            return await handler(await read(), context)

    def timed(self, method: str) -> Timed:
        """Return what times each request of a stream of this method like a call."""

        @contextmanager
        def one(context: Any) -> Iterator[None]:
            start_s = perf_counter()
            code = StatusCode.OK
            try:
                yield
            except ServiceError as error:
                code = error.code
                raise
            except asyncio.CancelledError:
                code = gone(context)
                raise
            except Exception:
                # A request that fails ends itself alone, whatever it failed with.
                code = StatusCode.INTERNAL
                logger.exception("unhandled error in %s", method)
                raise ServiceError("internal error") from None
            finally:
                self._seconds(method, code.name).observe(perf_counter() - start_s)

        return one

    @contextmanager
    def _call(self, method: str, context: Any, *, timed: bool) -> Iterator[None]:
        """Identify, trace and time a call; an unknown error becomes INTERNAL, and is logged."""
        start_s = perf_counter()
        metadata = _texts(context)
        request_id.set(_id(metadata))
        code = StatusCode.OK
        with self._tracing.call(method, metadata) as ended:
            try:
                # An orchestrator's probes have no token, and health reveals only yes or no.
                if not method.startswith(HEALTH):
                    caller.set(self._tokens.identify(metadata))
                yield
            except ServiceError as error:
                code = error.code
                raise
            except grpc.aio.AbortError:
                code = code_of(context)
                raise
            except (asyncio.CancelledError, GeneratorExit):
                code = gone(context)
                raise
            except Exception:
                code = StatusCode.INTERNAL
                logger.exception("unhandled error in %s", method)
                raise ServiceError("internal error") from None
            finally:
                seconds = perf_counter() - start_s
                ended(code.name)
                if timed:
                    self._seconds(method, code.name).observe(seconds)
                if logger.isEnabledFor(logging.DEBUG):
                    _log(method, code, seconds, context)


def _texts(context: Any) -> dict[str, str]:
    return {
        key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)
    }


def deadline_s(context: Any) -> float:
    """Return a call's deadline on the clock of `time.monotonic`."""
    remaining_s = context.time_remaining()
    return math.inf if remaining_s is None else monotonic() + float(remaining_s)


def _id(metadata: dict[str, str]) -> str:
    given = metadata.get("x-request-id", "")
    # A caller must not be able to forge a line of the log.
    if 0 < len(given) <= _MAX_ID and given.isascii() and given.isprintable():
        return given
    return f"{_PROCESS}-{next(_numbers):x}"


def _log(method: str, code: StatusCode, seconds: float, context: Any) -> None:
    fields = {
        "method": method,
        "code": code.name,
        "seconds": round(seconds, 6),
        "caller": caller.get().name,
        "peer": context.peer(),
    }
    logger.debug("%s %s %.1f ms", method, code.name, seconds * 1000, extra={"fields": fields})
