"""Bounds how many calls and streams are open, and reads the message of a call.

Health probes are bounded separately: an orchestrator must get an answer even if the server is full,
and each client that balances keeps a Watch open.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from service.batching.byte_budget import ByteBudget
from service.batching.held import Held
from service.errors import InvalidArgumentError, OverloadedError
from service.observability.metrics import Metrics

HEALTH = "/grpc.health.v1.Health/"
"""What the names of health's methods begin with."""

_PROBES = ("/ServerLive", "/ServerReady", "/ModelReady")
"""The probes of Triton's clients; unlike health, they need a token."""

MAX_CALLS = 2048
"""Calls at a time, except probes: a bound for what the other limits do not count."""

_MAX_PROBES = 1024
"""Probes at a time."""

_PROBES_READ = 4
"""Messages of probes that are read at a time. They should be tiny, but need not be."""


class OpenCalls:
    """Counts the calls of one server that are open."""

    def __init__(
        self, metrics: Metrics, *, budget: ByteBudget, largest: int, max_streams: int
    ) -> None:
        """Start with no calls.

        Args:
            metrics: Where refusals and streams are counted.
            budget: Bounds the bytes that are read.
            largest: Most bytes of a message.
            max_streams: Most streams open at a time.
        """
        self._metrics = metrics
        self._budget = budget
        self._probe_budget = ByteBudget(_PROBES_READ * largest, metrics, largest=largest)
        self._max_streams = max_streams
        self._calls = 0
        self._probes = 0
        self._streams = 0

    def call(self, method: str) -> Held:
        """Count a call while it is open.

        Raises:
            OverloadedError: There are too many.
        """
        if _is_probe(method):
            if self._probes >= _MAX_PROBES:
                raise self._full("probes", _MAX_PROBES, method)
            self._probes += 1
            return Held(self._end_probe)
        if self._calls >= MAX_CALLS:
            raise self._full("calls", MAX_CALLS, method)
        self._calls += 1
        return Held(self._end_call)

    @contextmanager
    def stream(self, method: str) -> Iterator[None]:
        """Count a stream while it is open; a stream of probes does not count as one.

        Raises:
            OverloadedError: There are too many.
        """
        if _is_probe(method):
            yield
            return
        if self._streams >= self._max_streams:
            raise self._full("streams", self._max_streams, method)
        gauge = self._metrics.open_streams.labels(method)
        self._streams += 1
        gauge.inc()
        try:
            yield
        finally:
            self._streams -= 1
            gauge.dec()

    async def message(self, method: str, context: Any) -> Any:
        """Return the only message of a call.

        Raises:
            InvalidArgumentError: There is none, or it cannot be read.
            OverloadedError: It did not fit, or did not come in time.
        """
        budget = self._probe_budget if _is_probe(method) else self._budget
        try:
            message = await budget.read(context.peer(), context.read)
        except DecodeError as error:
            raise InvalidArgumentError(f"the message cannot be read: {error}") from error
        if message is grpc.aio.EOF:  # type: ignore[attr-defined]  # its stubs lack it
            raise InvalidArgumentError("the call has no message")
        return message

    def _end_call(self) -> None:
        self._calls -= 1

    def _end_probe(self) -> None:
        self._probes -= 1

    def _full(self, what: str, most: int, method: str) -> OverloadedError:
        reason = "streams_full" if what == "streams" else "calls_full"
        self._metrics.rejected_images.labels(reason).inc()
        error = OverloadedError(f"{most} {what} are open, which is the most; try again later")
        self._metrics.request_seconds.labels(method, error.code.name).observe(0)
        return error


def _is_probe(method: str) -> bool:
    return method.startswith(HEALTH) or method.endswith(_PROBES)
