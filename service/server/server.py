"""The server: its ports, the models behind them, and its life from start to drain.

alone: listen (NOT_SERVING) ─► load, check and warm up the models ─► SERVING
with shared ports: load, check and warm up the models ─► listen (SERVING)
SIGTERM ─► NOT_SERVING, but calls are still taken for `drain_delay_s` ─► no new calls; those in
flight may take `drain_s` more ─► exit 0. A second SIGTERM cuts them off.
"""

import asyncio
import contextlib
import logging
from dataclasses import replace
from types import TracebackType
from typing import Self

import grpc

from service.addresses import with_port
from service.api.auth import Tokens
from service.api.inference import Inference
from service.batching.byte_budget import ByteBudget
from service.batching.decoder import Decoder
from service.capture.place import open_capture
from service.config import ServerConfig
from service.errors import InvalidArgumentError, NotFoundError, UnavailableError
from service.http.body import Bodies
from service.http.endpoints import Api
from service.http.listener import Listener, http_listener
from service.memory import trim_regularly
from service.models.bucket import BucketRepository
from service.models.pool import ModelPool
from service.models.working_copy import followed_copy
from service.observability.metrics import Metrics, exposed
from service.observability.tracing import NoTracing, OpenTelemetry, Tracing
from service.pixels.budget import Budget, default_bytes
from service.server import grpc_port
from service.server.health import Health
from service.server.services import CLASSIFIER, INFERENCE, Services
from service.server.watchdog import Watchdog
from storage import bucket_url

_POLLS_PER_PULL = 5
"""A bucket is read in one poll of the repository in so many: each read is a request that costs."""

logger = logging.getLogger(__name__)


class Server:
    """The service on one event loop. `async with Server(config)` starts and drains it.

    Attributes:
        port: The gRPC port, once it listens.
        http_port: The HTTP port, or None.
        metrics_port: The port of `/metrics`, or None.
        reflection_port: The port of reflection, or None where it has none of its own.
        metrics: What it counts and times.
        models: What it serves.
        watchdog: Tells when the process should end, once it listens.
        grace_s: How long calls in flight may take to end.
    """

    def __init__(self, config: ServerConfig, *, shares_port: bool = False) -> None:
        """Prepare a server; `start` starts it.

        Args:
            config: What to serve, and where.
            shares_port: Whether other servers listen on the same ports. The system gives each
                connection to one of them, so this one listens only once it can answer.

        Raises:
            UnavailableError: There is no place for a copy of the models in a bucket.
        """
        self._shares_port = shares_port
        self._closers = contextlib.AsyncExitStack()
        self._bucket: BucketRepository | None = None
        if url := bucket_url(config.repository):
            self._bucket = self._closers.enter_context(followed_copy(url))
            config = replace(config, repository=self._bucket.folder)
        self.config = config
        self.port = config.port
        self.http_port = config.http_port
        self.metrics_port = config.metrics_port
        self.reflection_port: int | None = None
        self.metrics = Metrics(gpus=config.device != "cpu" and not shares_port)
        self._budget = Budget(config.max_decode_bytes or default_bytes())
        self.models: ModelPool = ModelPool(
            config, self.metrics, self._budget,
            run_failed=lambda instance: self.watchdog.run_failed(instance),
        )  # fmt: skip
        self.watchdog: Watchdog
        self._tokens = Tokens(config.tokens)
        self._http: Listener | None = None
        self._health = Health(("", CLASSIFIER, INFERENCE))
        self._services: Services
        self._server: grpc.aio.Server
        self._loaded = self._draining = False
        self._stopping = asyncio.Event()
        self._aborting = asyncio.Event()
        self.grace_s = config.drain_s

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
            UnavailableError: A port cannot be opened.
            ServiceError: No model can be served.
        """
        try:
            await self.listen()
            await self.load()
        except BaseException:
            await self.stop()
            raise

    async def listen(self) -> None:
        """Open the ports, with health NOT_SERVING: an orchestrator can then tell slow from dead.

        Ports that are shared are opened by `load`.
        """
        config = self.config
        self.watchdog = Watchdog(config, self.metrics, self.models, self._update_health)
        tracing: Tracing = (
            OpenTelemetry(config.otlp_endpoint) if config.otlp_endpoint else NoTracing()
        )
        self._closers.callback(tracing.close)
        decoder = Decoder(config.decode_threads or config.cores, self.metrics, self._budget)
        self._byte_budget = ByteBudget(
            config.max_bytes_in_flight, self.metrics, largest=config.max_message_bytes
        )
        if capture := open_capture(config, self.metrics):
            self._closers.callback(capture.close)
        inference = Inference(
            decoder, self.metrics, budget=self._byte_budget, tracing=tracing, capture=capture
        )
        self._services = Services.make(
            config, metrics=self.metrics, tracing=tracing, tokens=self._tokens, models=self.models,
            inference=inference, health=self._health, stopping=self._stopping,
        )  # fmt: skip
        methods = self._services.methods(reflection=config.reflection == "on")
        self._server = grpc_port.new_server(config, methods, shares_port=self._shares_port)
        if config.http_port is not None:
            self._http = self._http_listener(self._services)
            self.http_port = self._http.port
        # Closed in reverse order: calls end, then their models, then the threads, then metrics.
        if config.metrics_port is not None:
            where = config.metrics_host or config.host, config.metrics_port
            self.metrics_port = self._closers.enter_context(exposed(self.metrics.registry, *where))
        self._closers.callback(decoder.close)
        self._closers.push_async_callback(self.models.close)
        self._closers.push_async_callback(self._stop_calls, self._server)
        if not self._shares_port:
            await self._open_ports()
        if config.reflection not in ("on", "off"):
            await self._open_reflection_port()

    async def load(self) -> None:
        """Load and warm up the models, set health to SERVING, and follow the repository.

        Raises:
            ServiceError: No model can be served.
        """
        waiting = False
        while True:
            try:
                if self._bucket:
                    await self._pull(self._bucket)
                await self.models.load()
                break
            except NotFoundError as error:
                if not self.config.wait_for_model:
                    raise
                if not waiting:
                    logger.warning("waiting for the first release: %s", error)
                waiting = True
                await asyncio.sleep(self.config.poll_interval_s)
        background = [
            self.models.watch(),
            self.watchdog.watch(),
            self.reload_tokens(),
            trim_regularly(),
        ]
        if self._bucket:
            background.append(self._follow(self._bucket))
        for each in background:
            self._closers.callback(asyncio.create_task(each).cancel)
        self._loaded = True
        await self._update_health()
        if self._shares_port:
            await self._open_ports()

    async def _pull(self, bucket: BucketRepository) -> None:
        """Fill the folder from the bucket; models that came serve, whatever ails the others."""
        try:
            await asyncio.to_thread(bucket.pull, most=self.config.keep_versions)
        except UnavailableError as error:
            if not self.models.repository.models():
                raise
            self.metrics.pull_failures.inc()
            logger.error("%s; the other models are served", error)

    async def drain(self) -> None:
        """Set health to NOT_SERVING, but take calls until `stop`."""
        self._draining = True
        if self._http is not None:
            self._http.drain()
        await self._update_health()

    def abort_calls(self) -> None:
        """Make `stop` cut off the calls in flight, also if it waits for them already."""
        self.grace_s = 0
        self._aborting.set()

    async def stop(self) -> None:
        """Set health to NOT_SERVING, take no new calls, and free everything.

        Calls in flight may take `grace_s`.
        """
        self._draining = True
        self._stopping.set()
        self.metrics.ready.set(0)
        await self._health.set(serving=False, ending=True)
        await self._closers.aclose()

    async def _follow(self, bucket: BucketRepository) -> None:
        """Pull from a bucket until cancelled; a failed pull is repeated the next time."""
        failed = ""
        while True:
            await asyncio.sleep(_POLLS_PER_PULL * self.config.poll_interval_s)
            try:
                await asyncio.to_thread(bucket.pull, most=self.config.keep_versions)
                failed = ""
            except Exception as error:
                self.metrics.pull_failures.inc()
                if str(error) != failed:  # a bucket that is away for an hour is reported once
                    logger.error("what is loaded serves on: %s", error)
                failed = str(error)

    async def _update_health(self) -> None:
        """Set health to SERVING if models are loaded, one works, and the server does not drain."""
        serving = self._loaded and not self._draining and self.models.works
        self.metrics.ready.set(serving)
        await self._health.set(serving=serving)

    def _http_listener(self, services: Services) -> Listener:
        config = self.config
        bodies = Bodies(self._byte_budget, most=config.max_message_bytes)
        api = Api(
            services.classifier, services.open_inference, services.interceptor, bodies,
            lambda: self._health.serving,
        )  # fmt: skip
        return http_listener(config, api, shares_port=self._shares_port)

    async def _open_ports(self) -> None:
        address = with_port(self.config.host, self.config.port)
        self.port = grpc_port.bind(self._server, self.config, address, "--port")
        await self._server.start()
        if self._http is not None:
            await self._http.start()

    async def _open_reflection_port(self) -> None:
        """Serve reflection, and nothing else, on a port of its own."""
        config = self.config
        methods = self._services.reflection()
        server = grpc_port.new_server(config, methods, shares_port=self._shares_port)
        self.reflection_port = grpc_port.bind(server, config, config.reflection, "--reflection")
        self._closers.push_async_callback(server.stop, None)
        await server.start()

    async def _stop_calls(self, server: grpc.aio.Server) -> None:
        """End the calls of both ports, within `grace_s`."""
        stops = [grpc_port.stop(server, self.grace_s, self._aborting)]
        if self._http is not None:
            stops.append(self._http.stop(self.grace_s, self._aborting))
        await asyncio.gather(*stops)

    async def reload_tokens(self) -> None:
        """Follow the file of callers until cancelled."""
        while True:
            await asyncio.sleep(self.config.poll_interval_s)
            try:
                await asyncio.to_thread(self._tokens.reload)
            except InvalidArgumentError as error:
                logger.error("the old tokens are kept: %s", error)
