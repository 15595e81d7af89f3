"""The one place that turns exceptions into gRPC statuses, and that times whole calls."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any

import grpc
from grpc import StatusCode

from service.errors import ServiceError
from service.metrics import Metrics

logger = logging.getLogger(__name__)


class Guard(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in stubs alone
    """Wraps every unary method: known errors keep their sentence, unknown ones leak nothing."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Return the method's handler, wrapped; streams are left as they are."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler
        method = handler_call_details.method

        async def guarded(request: Any, context: Any) -> Any:
            start_s = perf_counter()
            code = StatusCode.OK
            try:
                return await handler.unary_unary(request, context)
            except ServiceError as error:
                code = error.code
                await context.abort(code, str(error))
            except grpc.aio.AbortError:
                code = context.code()
                raise
            except asyncio.CancelledError:
                remaining_s = context.time_remaining()
                late = remaining_s is not None and remaining_s <= 0
                code = StatusCode.DEADLINE_EXCEEDED if late else StatusCode.CANCELLED
                raise
            except Exception:
                code = StatusCode.INTERNAL
                logger.exception("unhandled error in %s", method)
                await context.abort(code, "internal error")
            finally:
                self._metrics.request_seconds.labels(method, code.name).observe(
                    perf_counter() - start_s
                )

        return grpc.unary_unary_rpc_method_handler(
            guarded, handler.request_deserializer, handler.response_serializer
        )
