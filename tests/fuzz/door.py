"""The server without its sockets: what a stream or an HTTP request meets once it is read.

messages ─► interceptor ─► servicer ─┐
├─► decoder, batcher, a tiny model
body ─► application ─► endpoints ────┘
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from service.api.auth import Tokens
from service.api.inference import Inference
from service.batching.byte_budget import ByteBudget
from service.batching.decoder import Decoder
from service.config import ServerConfig
from service.http.app import build
from service.http.body import Bodies
from service.http.endpoints import Api
from service.models.pool import ModelPool
from service.models.repository import ModelRepository
from service.observability.metrics import Metrics
from service.observability.tracing import NoTracing
from service.pb import classifier_pb2, inference_pb2
from service.pixels.budget import Budget
from service.server.health import Health
from service.server.services import CLASSIFIER, INFERENCE, Services
from tests.service import tiny_onnx

_MAX_BYTES = 2**20
_REST_S = 5.0
_PATHS = (
    "/v1/models/food:classify", "/v2/models/food/infer", "/v2/repository/index",
    "/v2/repository/models/food/load", "/v2/models/food/versions/1/infer",
)  # fmt: skip
_KINDS = (
    b"application/json", b"image/jpeg", b"multipart/form-data; boundary=x", b"multipart/form-data",
)  # fmt: skip
_STATUSES = (200, 400, 403, 404, 408, 413, 415, 429, 504)


class Context:
    """The part of gRPC's ServicerContext that is used; what `abort` is told is kept."""

    def __init__(self) -> None:
        self.code_set: grpc.StatusCode | None = None

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        """Return no metadata."""
        return ()

    def time_remaining(self) -> None:
        """Return that there is no deadline."""

    def peer(self) -> str:
        """Return a name for the connection."""
        return "fuzz"

    def code(self) -> Any:
        """Return the status that was set."""
        return self.code_set

    def cancelled(self) -> bool:
        """Return that nobody has left."""
        return False

    async def abort(self, code: grpc.StatusCode, details: str, metadata: Any = ()) -> None:
        """End the call."""
        del metadata
        self.code_set = code
        raise grpc.aio.AbortError(details)

    async def abort_with_status(self, status: Any) -> None:
        """End the call."""
        await self.abort(status.code, status.details)


class Door:
    """The services of one server, on an event loop that runs while an input is tried."""

    def __init__(self) -> None:
        """Load a tiny model."""
        self._loop = asyncio.new_event_loop()
        self._folder = tempfile.TemporaryDirectory()
        self._loop.run_until_complete(self._open(Path(self._folder.name)))

    async def _open(self, folder: Path) -> None:
        ModelRepository(folder / "models").publish("food", tiny_onnx.build(folder / "tiny.onnx"))
        settings = ServerConfig(
            repository=folder / "models", device="cpu", runs=1, max_message_bytes=_MAX_BYTES
        )
        self._metrics = metrics = Metrics()
        decoding = Budget(48 * 2**20)
        pool = ModelPool(settings, metrics, decoding)
        budget = ByteBudget(8 * _MAX_BYTES, metrics, largest=_MAX_BYTES)
        inference = Inference(Decoder(1, metrics, decoding), metrics, budget=budget)
        services = Services.make(
            settings, metrics=metrics, tracing=NoTracing(), tokens=Tokens(None), models=pool,
            inference=inference, health=Health(("", CLASSIFIER)), stopping=asyncio.Event(),
        )  # fmt: skip
        await pool.load()
        wrapped = services.interceptor.wrapped
        self._streams = [
            wrapped(
                f"/{CLASSIFIER}/ClassifyStream",
                grpc.stream_stream_rpc_method_handler(
                    services.classifier.ClassifyStream, classifier_pb2.ClassifyRequest.FromString
                ),
            ),
            wrapped(
                f"/{INFERENCE}/ModelStreamInfer",
                grpc.stream_stream_rpc_method_handler(
                    services.open_inference.ModelStreamInfer,
                    inference_pb2.ModelInferRequest.FromString,
                ),
            ),
        ]
        api = Api(
            services.classifier, services.open_inference, services.interceptor,
            Bodies(budget, most=_MAX_BYTES), lambda: True,
        )  # fmt: skip
        self._app = build(api.routes())

    def stream(self, method: int, messages: list[bytes], left_after: int) -> None:
        """Send messages over a stream, whose caller may leave after some answers."""
        self._loop.run_until_complete(self._stream(method, messages, left_after))
        self._at_rest()

    async def _stream(self, method: int, messages: list[bytes], left_after: int) -> None:
        handler = self._streams[method % len(self._streams)]
        context = Context()
        broken = False

        async def requests() -> AsyncIterator[Any]:
            nonlocal broken
            for message in messages:
                try:
                    yield handler.request_deserializer(message)
                except DecodeError:
                    broken = True
                    raise

        answers = handler.stream_stream(requests(), context)
        found = []
        try:
            async for answer in answers:
                found.append(answer)
                if len(found) == left_after:
                    break
        except grpc.aio.AbortError:
            pass
        finally:
            await answers.aclose()
        assert context.code_set is not grpc.StatusCode.INTERNAL
        for answer in found:
            assert (
                answer.error.code != grpc.StatusCode.INTERNAL.value[0]
                if method % 2 == 0
                else (not answer.error_message.startswith("INTERNAL"))
            )
        if not broken and not 0 < left_after <= len(messages):
            assert len(found) == len(messages)

    def body(self, route: int, header: int, query: bytes, content: bytes) -> None:
        """Send a request to the HTTP port."""
        self._loop.run_until_complete(self._body(route, header, query, content))
        self._at_rest()

    async def _body(self, route: int, header: int, query: bytes, content: bytes) -> None:
        headers = [
            (b"host", b"x"),
            (b"content-type", _KINDS[header % len(_KINDS)]),
            (b"content-length", str(len(content)).encode()),
        ]
        if header & 16:
            headers.append((b"inference-header-content-length", str(32 * (header >> 5)).encode()))
        if header & 8:
            query, content = b"", query + content
        scope = {
            "type": "http", "http_version": "1.1", "method": "POST", "scheme": "http",
            "path": _PATHS[route % len(_PATHS)], "raw_path": b"", "root_path": "",
            "query_string": query, "headers": headers, "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
        }  # fmt: skip
        parts = [{"type": "http.request", "body": content, "more_body": False}]
        status: list[int] = []

        async def receive() -> dict[str, Any]:
            if parts:
                return parts.pop()
            return await asyncio.get_running_loop().create_future()  # the caller stays

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                status.append(message["status"])

        await self._app(scope, receive, send)
        assert status[0] in _STATUSES, f"status {status[0]}"

    def _at_rest(self) -> None:
        """Check that nothing of the last input is left, once the batcher has looked."""
        self._loop.run_until_complete(self._rest())

    async def _rest(self) -> None:
        metrics = self._metrics
        counters = (metrics.admitted_images, metrics.bytes_in_flight, metrics.queued_images)
        async with asyncio.timeout(_REST_S):
            while any(counter.value for counter in counters):
                await asyncio.sleep(0.001)
            await asyncio.sleep(0)  # what was cancelled ends
