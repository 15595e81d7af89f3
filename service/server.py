"""The server: one port, the models behind it, and their lives from start to drain.

listen (NOT_SERVING) ─► load, check, warm up ─► SERVING ─► SIGTERM: NOT_SERVING, drain, exit 0
"""

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from service.config import ServerConfig, num_cores
from service.errors import UnavailableError
from service.interceptors import Guard
from service.metrics import Metrics, exposed
from service.pb import classifier_pb2 as pb
from service.pb import classifier_pb2_grpc as pb_grpc
from service.servicer import Classifier, ModelPool
from terminal import say

CLASSIFIER = pb.DESCRIPTOR.services_by_name["Classifier"].full_name

logger = logging.getLogger(__name__)


class _Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """grpc.health.v1 for a server whose services turn together; it begins as NOT_SERVING.

    The stock servicer begins as SERVING, and leaves watchers on the line when the server drains,
    which then waits for them to the last second.
    """

    def __init__(self, services: Iterable[str]) -> None:
        self._services = frozenset(services)
        self._serving = False
        self._draining = False
        self._changed = asyncio.Condition()

    async def turn(self, *, serving: bool, draining: bool = False) -> None:
        """Tell every watcher; when the server drains, for the last time."""
        async with self._changed:
            self._serving, self._draining = serving, draining
            self._changed.notify_all()

    async def Check(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: Any
    ) -> health_pb2.HealthCheckResponse:
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no service {request.service!r}")
        return health_pb2.HealthCheckResponse(status=self._status(request.service))

    async def Watch(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: Any
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        told = None
        while True:
            async with self._changed:
                while told == self._status(request.service) and not self._draining:
                    await self._changed.wait()
                status, last = self._status(request.service), self._draining
            if told != status:
                told = status
                yield health_pb2.HealthCheckResponse(status=status)
            if last:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is draining")

    def _status(self, service: str) -> health_pb2.HealthCheckResponse.ServingStatus:
        statuses = health_pb2.HealthCheckResponse
        if service not in self._services:
            return statuses.SERVICE_UNKNOWN
        return statuses.SERVING if self._serving else statuses.NOT_SERVING


class Server:
    """The service on one event loop. `async with Server(config)` starts and drains it.

    Attributes:
        port: The gRPC port, once it listens.
        metrics_port: The port of `/metrics`, or None.
        metrics: What it counts and times.
        models: What it serves.
    """

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self.port = config.port
        self.metrics_port = config.metrics_port
        self.metrics = Metrics()
        self.models = ModelPool(config, self.metrics)
        self._health = _Health(("", CLASSIFIER))
        self._closers = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen, load the models and serve; on failure nothing is left running.

        Raises:
            UnavailableError: A port cannot be had.
            ServiceError: A model cannot be served.
        """
        try:
            await self.listen()
            await self.load()
        except BaseException:
            await self.stop()
            raise

    async def listen(self) -> None:
        """Answer on the port, with health NOT_SERVING: an orchestrator can tell slow from dead."""
        config = self.config
        # Left on, a second server on the port would silently take half of the calls.
        options = [
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", config.max_message_bytes),
            ("grpc.max_send_message_length", config.max_message_bytes),
        ]
        server = grpc.aio.server(interceptors=[Guard(self.metrics)], options=options)
        threads = ThreadPoolExecutor(config.decode_threads or num_cores(), "decode")
        # onnxruntime and libjpeg let go of the GIL: decoding and computing really overlap.
        servicer = Classifier(self.models.find, threads, self.metrics)
        pb_grpc.add_ClassifierServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = (CLASSIFIER, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
        try:
            self.port = server.add_insecure_port(f"{config.host}:{config.port}")
        except RuntimeError as error:
            raise UnavailableError(
                f"cannot listen on {config.host}:{config.port}: is another server there?"
                " Choose another with --port"
            ) from error
        # Closed in the reverse order: calls end, then their models, then the threads, then metrics.
        if config.metrics_port is not None:
            self.metrics_port = self._closers.enter_context(
                exposed(self.metrics, config.host, config.metrics_port)
            )
        self._closers.callback(threads.shutdown, cancel_futures=True)
        self._closers.push_async_callback(self.models.close)
        self._closers.push_async_callback(server.stop, config.drain_s)
        await server.start()

    async def load(self) -> None:
        """Load and warm up the models, then turn SERVING and follow the repository.

        Raises:
            ServiceError: A model cannot be served.
        """
        await self.models.load()
        watching = asyncio.create_task(self.models.watch())
        self._closers.callback(watching.cancel)
        await self._health.turn(serving=True)

    async def stop(self) -> None:
        """Turn NOT_SERVING, take no new calls, end those in flight (`drain_s`), and let go."""
        await self._health.turn(serving=False, draining=True)
        await self._closers.aclose()


def run(config: ServerConfig, *, ready: Callable[[str], None] = say) -> int:
    """Serve until SIGTERM or SIGINT, drain, and return the exit code, 0.

    Args:
        config: What to serve, and where.
        ready: Called with one line for people, once health is SERVING.

    Raises:
        ServiceError: It cannot start.
    """
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(config, ready))
    return 0


async def _serve(config: ServerConfig, ready: Callable[[str], None]) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    async with Server(config) as server:
        served = ", ".join(
            f"{instance.name} version {instance.version} on {instance.model.provider}"
            for instance in server.models.instances
        )
        ready(f"serving {served} at {config.host}:{server.port}")
        await stopping.wait()
        logger.info("draining, at most %g s", config.drain_s)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if sys.platform == "win32":
        return None
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
