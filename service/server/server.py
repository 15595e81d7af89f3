"""The server: its ports, the models behind them, and their lives from start to drain.

listen (NOT_SERVING) ─► load, check, warm up ─► SERVING
with shared ports: load, check, warm up ─► listen (SERVING)
SIGTERM ─► NOT_SERVING, calls are still taken for `drain_delay_s` ─► no new calls, those in flight
end, `drain_s` at most ─► exit 0. A second SIGTERM cuts off what is left.
"""

import asyncio
import contextlib
import logging
import tempfile
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from service.api.auth import Tokens
from service.api.classifier import ClassifierServicer
from service.api.inference import Inference
from service.api.interceptors import CallInterceptor
from service.api.open_inference import Control, OpenInferenceServicer
from service.batching.decoder import Decoder
from service.config import ServerConfig
from service.errors import InvalidArgumentError, NotFoundError
from service.http.body import Bodies
from service.http.endpoints import Api
from service.http.listener import Listener, http_listener
from service.memory import trim_heaps
from service.models.bucket import Bucket, follow
from service.models.pool import ModelPool
from service.observability.metrics import Metrics, exposed
from service.observability.tracing import NoTracing, OpenTelemetry, Tracing
from service.pb import classifier_pb2, inference_pb2
from service.pb import classifier_pb2_grpc as classifier_grpc
from service.pb import inference_pb2_grpc as inference_grpc
from service.server import grpc_port
from service.server.health import Health
from service.server.watchdog import Watchdog
from storage import bucket_url

CLASSIFIER = classifier_pb2.DESCRIPTOR.services_by_name["Classifier"].full_name
INFERENCE = inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
SERVICES = (CLASSIFIER, INFERENCE, health.SERVICE_NAME, reflection.SERVICE_NAME)

_PULL_TURNS = 5
"""A bucket is looked at once in so many turns of the poll: each look is a request that costs."""

_TIDY_S = 30.0

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
        """Serve nothing yet.

        Args:
            config: What to serve, and where.
            shares_port: Whether other servers listen on the same ports. A connection goes to one
                of them, so this one joins them only when it can answer.
        """
        self._shares_port = shares_port
        self._closers = contextlib.AsyncExitStack()
        self._bucket: Bucket | None = None
        if url := bucket_url(config.repository):
            copy = tempfile.TemporaryDirectory(prefix="hansang-models-")
            self._closers.callback(copy.cleanup)
            self._bucket = Bucket(url, Path(copy.name))
            config = replace(config, repository=Path(copy.name))
        self.config = config
        self.port = config.port
        self.http_port = config.http_port
        self.metrics_port = config.metrics_port
        self.reflection_port: int | None = None
        self.metrics = Metrics()
        self.models: ModelPool = ModelPool(
            config, self.metrics, run_failed=lambda instance: self.watchdog.run_failed(instance)
        )
        self.watchdog: Watchdog
        self._tokens = Tokens(config.tokens)
        self._http: Listener | None = None
        self._health = Health(("", CLASSIFIER, INFERENCE))
        self._server: grpc.aio.Server
        self._loaded = False
        self._draining = False
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
        """Answer on the port, with health NOT_SERVING: an orchestrator can tell slow from dead.

        Shared ports are left alone until the models are loaded.
        """
        config, metrics = self.config, self.metrics
        self.watchdog = Watchdog(config, metrics, self._update_health)
        tracing: Tracing = (
            OpenTelemetry(config.otlp_endpoint) if config.otlp_endpoint else NoTracing()
        )
        self._closers.callback(tracing.close)
        interceptor = CallInterceptor(
            metrics,
            tokens=self._tokens,
            tracing=tracing,
            max_streams=config.max_streams,
            admission_checks={
                f"/{CLASSIFIER}/Classify": self.models.refusal,
                f"/{INFERENCE}/ModelInfer": self.models.refusal,
            },
        )
        server = grpc_port.new_server(config, interceptor, shares_port=self._shares_port)
        self._server = server
        decoder = Decoder(config.decode_threads or config.cores, metrics)
        inference = Inference(
            decoder, metrics, max_bytes=config.max_bytes_in_flight, tracing=tracing
        )
        classifier = ClassifierServicer(
            self.models.find,
            inference,
            interceptor.timed(f"/{CLASSIFIER}/ClassifyStream"),
            self._stopping,
        )
        open_inference = OpenInferenceServicer(
            self.models,
            inference,
            interceptor.timed(f"/{INFERENCE}/ModelStreamInfer"),
            self._stopping,
            Control(
                ready=lambda: self._health.serving,
                allowed=config.model_control,
                max_delay_ms=config.max_delay_ms,
            ),
        )
        classifier_grpc.add_ClassifierServicer_to_server(classifier, server)  # type: ignore[no-untyped-call]
        inference_grpc.add_GRPCInferenceServiceServicer_to_server(open_inference, server)  # type: ignore[no-untyped-call]
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if config.reflection == "on":
            reflection.enable_server_reflection(SERVICES, server)
        if config.http_port is not None:
            bodies = Bodies(
                metrics, most=config.max_message_bytes, most_together=config.max_bytes_in_flight
            )
            api = Api(classifier, open_inference, interceptor, bodies, lambda: self._health.serving)
            self._http = http_listener(config, api, shares_port=self._shares_port)
            self.http_port = self._http.port
        # Closed in the reverse order: calls end, then their models, then the threads, then metrics.
        if config.metrics_port is not None:
            self.metrics_port = self._closers.enter_context(
                exposed(metrics.registry, config.metrics_host or config.host, config.metrics_port)
            )
        self._closers.callback(decoder.close)
        self._closers.push_async_callback(self.models.close)
        self._closers.push_async_callback(self._stop_calls, server)
        if not self._shares_port:
            await self._open_ports()
        if config.reflection not in ("on", "off"):
            apart = grpc_port.new_server(config, interceptor, shares_port=self._shares_port)
            reflection.enable_server_reflection(SERVICES, apart)
            self.reflection_port = grpc_port.bind(apart, config, config.reflection, "--reflection")
            self._closers.push_async_callback(apart.stop, None)
            await apart.start()

    async def load(self) -> None:
        """Load and warm up the models, then turn SERVING and follow the repository.

        Raises:
            ServiceError: A model cannot be served.
        """
        waiting = False
        while True:
            try:
                if self._bucket:
                    await asyncio.to_thread(self._bucket.pull, most=self.config.keep_versions)
                await self.models.load()
                break
            except NotFoundError as error:
                if not self.config.wait_for_model:
                    raise
                if not waiting:
                    logger.warning("waiting for the first release: %s", error)
                waiting = True
                await asyncio.sleep(self.config.poll_interval_s)
        works = [
            self.models.watch(), self.watchdog.watch(self.models), self.reload_tokens(), tidy(),
        ]  # fmt: skip
        if self._bucket:
            interval_s = _PULL_TURNS * self.config.poll_interval_s
            works.append(follow(self._bucket, self.config.keep_versions, interval_s, self.metrics))
        for work in works:
            watching = asyncio.create_task(work)
            self._closers.callback(watching.cancel)
        self._loaded = True
        await self._update_health()
        if self._shares_port:
            await self._open_ports()

    async def drain(self) -> None:
        """Turn NOT_SERVING, and go on taking calls: `stop` ends that."""
        self._draining = True
        if self._http is not None:
            self._http.drain()
        await self._update_health()

    def abort_calls(self) -> None:
        """Make `stop`, also one under way, cut off what is in flight."""
        self.grace_s = 0
        self._aborting.set()

    async def stop(self) -> None:
        """Turn NOT_SERVING, take no new calls, end those in flight (`drain_s`), and let go."""
        self._draining = True
        self._stopping.set()
        self.metrics.ready.set(0)
        await self._health.set(serving=False, ending=True)
        await self._closers.aclose()

    async def _update_health(self) -> None:
        """Say what holds now: SERVING, or NOT_SERVING."""
        faulty = any(instance.fault for instance in self.models.loaded)
        serving = self._loaded and not self._draining and not faulty
        self.metrics.ready.set(serving)
        await self._health.set(serving=serving)

    async def _open_ports(self) -> None:
        config = self.config
        address = f"{config.host}:{config.port}"
        self.port = grpc_port.bind(self._server, config, address, "--port")
        await self._server.start()
        if self._http is not None:
            await self._http.start()

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


async def tidy() -> None:
    """Give memory back now and then: a burst must not be remembered for ever."""
    while True:
        await asyncio.sleep(_TIDY_S)
        await asyncio.to_thread(trim_heaps)
