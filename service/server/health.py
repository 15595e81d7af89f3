"""`grpc.health.v1`: whether the server takes calls. It begins as NOT_SERVING."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """Health of a server whose services always have the same status.

    grpc's own servicer begins as SERVING. It also keeps its Watch calls open, so that a draining
    server would wait for them until its time is over.
    """

    def __init__(self, services: Iterable[str]) -> None:
        self._services = frozenset(services)
        self._serving = False
        self._ending = False
        self._changed = asyncio.Condition()

    @property
    def serving(self) -> bool:
        """Whether the server takes calls."""
        return self._serving

    async def set(self, *, serving: bool, ending: bool = False) -> None:
        """Set the status and send it to every Watch call; `ending` also ends those calls."""
        async with self._changed:
            self._serving, self._ending = serving, ending
            self._changed.notify_all()

    async def Check(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: Any
    ) -> health_pb2.HealthCheckResponse:
        """Return the status of one service; an empty name is the whole server."""
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no service {request.service!r}")
        return health_pb2.HealthCheckResponse(status=self._status(request.service))

    async def Watch(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: Any
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """Return the status now and at every change."""
        sent = None
        while True:
            async with self._changed:
                while sent == self._status(request.service) and not self._ending:
                    await self._changed.wait()
                status, last = self._status(request.service), self._ending
            if sent != status:
                sent = status
                yield health_pb2.HealthCheckResponse(status=status)
            if last:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is draining")

    def _status(self, service: str) -> health_pb2.HealthCheckResponse.ServingStatus:
        statuses = health_pb2.HealthCheckResponse
        if service not in self._services:
            return statuses.SERVICE_UNKNOWN
        return statuses.SERVING if self._serving else statuses.NOT_SERVING
