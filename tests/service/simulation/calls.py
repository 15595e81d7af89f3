"""Simulated callers: what each sends, when it gives up, and what it is told in the end.

A `Call` is the context that a servicer gets from gRPC, and the record of what became of it. A
message that never comes, a caller that leaves, and a deadline are all events of the machine.
"""

import asyncio
import math
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any

import grpc
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from service.api.statuses import abort
from service.errors import ServiceError
from service.pb import classifier_pb2 as pb
from tests.service.simulation.parts import Photo

CLASSIFY = "/hansang.v1.Classifier/Classify"
STREAM = "/hansang.v1.Classifier/ClassifyStream"
INFER = "/inference.GRPCInferenceService/ModelInfer"


@dataclass(slots=True)
class Request:
    """A message: as duck-typed as the servicers allow, since protobuf would copy the photos."""

    images: list[Photo]
    model: str = ""
    model_version: int = 0
    priority: int = pb.PRIORITY_UNSPECIFIED
    top_k: int = 1

    @property
    def num_bytes(self) -> int:
        return sum(map(len, self.images))

    def to_infer(self, *, as_pixels: bool) -> Any:
        """Return the same as a request of the Open Inference Protocol."""
        count = len(self.images)
        raw = b"".join(photo.number.to_bytes(3, "big") for photo in self.images)
        tensor = SimpleNamespace(
            name="images",
            datatype="UINT8" if as_pixels else "BYTES",
            shape=[count, 1, 1, 3] if as_pixels else [count],
            parameters={},
            contents=SimpleNamespace(bytes_contents=self.images),
            HasField=lambda _: not as_pixels,
        )
        parameters = {}
        if self.priority:
            number = 1 if self.priority == pb.PRIORITY_INTERACTIVE else 2
            parameters["priority"] = SimpleNamespace(
                int64_param=number, WhichOneof=lambda _: "int64_param"
            )
        return SimpleNamespace(
            inputs=[tensor],
            outputs=[],
            raw_input_contents=[raw] if as_pixels else [],
            parameters=parameters,
            model_name=self.model,
            model_version=str(self.model_version or ""),
            id="",
        )


@dataclass(slots=True, eq=False)
class Call:
    """One call, of one message or of many; the context of its servicer.

    Attributes:
        over: grpc, pixels, infer, http or stream.
        requests: What is sent.
        gaps_s: How long each message takes to come; infinite: it never does.
        deadline_s: When the answer becomes worthless.
        leaves_s: When the caller leaves, whatever comes.
        code: What the call ended with; None while it is open.
    """

    world: Any
    over: str
    requests: list[Request]
    gaps_s: list[float]
    deadline_s: float
    leaves_s: float
    metadata: tuple[tuple[str, str], ...]
    began_s: float = 0.0
    code: grpc.StatusCode | None = None
    message: str = ""
    trailing: Any = ()
    responses: list[Any] = field(default_factory=list)
    read_s: list[float] = field(default_factory=list)
    held: int = 0
    task: Any = None
    fault: str = ""

    @property
    def images(self) -> int:
        return sum(len(request.images) for request in self.requests)

    # What a servicer asks of its context.

    def time_remaining(self) -> float | None:
        if self.deadline_s == math.inf:
            return None
        return self.deadline_s - self.world.machine.now

    def invocation_metadata(self) -> Any:
        return self.metadata

    def peer(self) -> str:
        return self.metadata[0][1]

    async def read(self) -> Any:
        """Return the only message; wait until it has come."""
        request, gap_s = self.requests[0], self.gaps_s[0]
        if gap_s:
            await self.comes(gap_s)
        self.hold(request)
        if self.over in ("infer", "pixels"):
            return request.to_infer(as_pixels=self.over == "pixels")
        return request

    async def comes(self, gap_s: float) -> None:
        if gap_s == math.inf:
            await self.world.machine.create_future()
        await asyncio.sleep(gap_s)

    async def abort(self, code: Any, message: str, trailing: Any = ()) -> None:
        self.code, self.message, self.trailing = code, message, trailing
        raise grpc.aio.AbortError

    # What the wire does.

    async def messages(self) -> Any:
        """Yield the messages of a stream, as gRPC's own iterator does."""
        for request, gap_s in zip(self.requests, self.gaps_s, strict=True):
            if gap_s:
                await self.comes(gap_s)
            self.hold(request)
            yield request

    def hold(self, request: Request) -> None:
        """Note that the server has the bytes of a request."""
        if self.task.done():  # its end has been told, and its generator is still being closed
            return
        self.read_s.append(self.world.machine.now)
        self.held += request.num_bytes
        self.world.hold(request.num_bytes)

    def let_go(self, num_bytes: int) -> None:
        self.held -= num_bytes
        self.world.hold(-num_bytes)

    def gives_up(self, code: grpc.StatusCode) -> None:
        """Cancel the call, as gRPC does when the caller leaves or its deadline passes."""
        if self.code is None and not self.task.done():
            self.code = code
            self.task.cancel()

    def retry_after_s(self) -> float | None:
        """Return when the caller may try again, as it was told; None: it was not."""
        found = dict(self.trailing)
        if "grpc-status-details-bin" not in found:
            return None
        status = Status.FromString(found["grpc-status-details-bin"])
        seconds = _retry_info(status)
        assert 0 <= int(found["grpc-retry-pushback-ms"]) - 1000 * seconds <= 1.001
        return seconds


def _retry_info(status: Any) -> Any:
    """Return the seconds of a status's RetryInfo; None where it has none."""
    for detail in status.details:
        info = RetryInfo()
        if detail.Unpack(info):
            return info.retry_delay.ToTimedelta().total_seconds()
    return None


class Port:
    """Stands in for gRPC's server: it runs the handlers, and cancels them as gRPC does."""

    def __init__(self, config: Any, methods: Any, *, shares_port: bool) -> None:
        self.open: dict[Any, None] = {}
        self.ended = False
        self._services = methods.services

    async def start(self) -> None:
        """Do nothing: calls come by `begin`."""

    async def stop(self, grace: float | None) -> None:
        self.ended = True
        if self.open and grace:
            await asyncio.wait(self.open, timeout=grace)
        for task in list(self.open):
            task.cancel()
        await asyncio.gather(*self.open, return_exceptions=True)

    def begin(self, call: Call) -> None:
        """Begin a call; it ends by itself."""
        machine = call.world.machine
        call.began_s = machine.now
        task = call.task = machine.create_task(self._answer(call))
        self.open[task] = None
        task.add_done_callback(partial(self._ended, call))
        if call.deadline_s < math.inf:
            late = grpc.StatusCode.DEADLINE_EXCEEDED
            machine.call_at(call.deadline_s, call.gives_up, late)
        if call.leaves_s < math.inf:
            machine.call_at(call.leaves_s, call.gives_up, grpc.StatusCode.CANCELLED)

    async def _answer(self, call: Call) -> None:
        try:
            if call.over == "http":
                await self._over_http(call)
            else:
                await self._over_grpc(call)
            call.code = call.code or grpc.StatusCode.OK
        except grpc.aio.AbortError:
            assert call.code is not None
        except asyncio.CancelledError:
            # By its caller, or cut off at the end of a drain.
            call.code = call.code or grpc.StatusCode.CANCELLED
        except Exception as error:
            call.fault = f"an unhandled {error!r}"
            call.code = grpc.StatusCode.UNKNOWN

    def _ended(self, call: Call, task: Any) -> None:
        del self.open[task]
        # One that is cancelled before it has begun never runs.
        call.code = call.code or grpc.StatusCode.CANCELLED
        call.let_go(call.held)
        call.world.ended(call)

    async def _over_grpc(self, call: Call) -> None:
        _, service, name = {"grpc": CLASSIFY, "stream": STREAM}.get(call.over, INFER).split("/")
        handler = self._services[service][name]
        if call.over != "stream":
            call.responses.append(await handler.stream_unary(None, call))
            return
        async for response in handler.stream_stream(call.messages(), call):
            call.responses.append(response)
            call.let_go(call.requests[len(call.responses) - 1].num_bytes)
            if call.world.slow_reader_s:  # the network takes the answers only so fast
                await asyncio.sleep(call.world.slow_reader_s)

    async def _over_http(self, call: Call) -> None:
        """Answer as `service/http/calls.py` does."""

        async def read() -> Any:
            with call.world.server._byte_budget.take(call.requests[0].num_bytes):
                return await call.read()

        services = call.world.server._services
        try:
            answer = services.interceptor.answer(CLASSIFY, call, read, services.classifier.Classify)
            call.responses.append(await answer)
        except ServiceError as error:
            await abort(call, error)
