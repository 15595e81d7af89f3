"""The stages of a call: timed for the statistics, and exported as spans with `--otlp-endpoint`.

call ─ decode ─ queue ─ compute        or queue ─ decode ─ compute, where batches decode

OpenTelemetry is optional (requirements/otel.txt), and is imported only if it is used.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

from service.errors import InvalidArgumentError

Stages = dict[str, tuple[float, float]]
"""Stage → start and end, on the clock of `time.monotonic`."""


class Tracing(Protocol):
    """Where spans go."""

    def call(self, method: str, metadata: Mapping[str, str]) -> Any:
        """Return a context manager around a call, whose span continues the caller's trace, if any.

        It yields a function that takes the name of the call's gRPC code.
        """

    def stages(self, stages: Stages, attributes: Mapping[str, str | int]) -> None:
        """Export the stages of a call as spans below its own."""

    def close(self) -> None:
        """Export the remaining spans, and stop."""


_NOTHING: AbstractContextManager[Callable[[str], None]] = nullcontext(lambda code: None)  # noqa: ARG005


class NoTracing:
    """Tracing that is switched off."""

    def call(self, method: str, metadata: Mapping[str, str]) -> Any:  # noqa: ARG002
        """Do nothing."""
        return _NOTHING

    def stages(self, stages: Stages, attributes: Mapping[str, str | int]) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class OpenTelemetry:
    """Exports spans over OTLP. A caller's `traceparent` is followed, including its sampling."""

    def __init__(self, endpoint: str, *, exporter: Any = None) -> None:
        """Connect to a collector of spans.

        Args:
            endpoint: Such as `http://localhost:4317`.
            exporter: Another exporter of OpenTelemetry than the one for OTLP, for tests.

        Raises:
            InvalidArgumentError: OpenTelemetry is not installed.
        """
        try:
            from opentelemetry import propagate, trace
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor

            if exporter is None:
                from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

                exporter = OTLPSpanExporter(
                    endpoint=endpoint, insecure=not endpoint.startswith("https://")
                )
        except ImportError as error:
            raise InvalidArgumentError(
                "--otlp-endpoint needs OpenTelemetry, which is not installed:"
                " pip install 'hansang[traces]'"
            ) from error
        self._trace = trace
        self._extract = propagate.extract
        # Its own provider, not the global one: a process may hold two servers.
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": "hansang"}), shutdown_on_exit=False
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("hansang.service")

    @contextmanager
    def call(self, method: str, metadata: Mapping[str, str]) -> Iterator[Any]:
        """Open the span of a call; see `Tracing`."""
        _, service, name = method.split("/")
        with self._tracer.start_as_current_span(
            f"{service}/{name}",
            context=self._extract(metadata),
            kind=self._trace.SpanKind.SERVER,
            attributes={"rpc.system": "grpc", "rpc.service": service, "rpc.method": name},
            record_exception=False,
            set_status_on_exception=False,
        ) as span:

            def ended(code: str) -> None:
                span.set_attribute("rpc.grpc.status", code)
                if code != "OK":
                    span.set_status(self._trace.StatusCode.ERROR, code)

            yield ended

    def stages(self, stages: Stages, attributes: Mapping[str, str | int]) -> None:
        """Export the stages of a call as children of the current span."""
        # Spans need wall-clock times, and stages are measured on a clock that never jumps.
        offset_ns = time.time_ns() - int(time.monotonic() * 1e9)
        for name, (start_s, end_s) in stages.items():
            span = self._tracer.start_span(
                name,
                start_time=offset_ns + int(start_s * 1e9),
                attributes=dict(attributes),
            )
            span.end(offset_ns + int(end_s * 1e9))

    def close(self) -> None:
        """Export the remaining spans, and stop."""
        self._provider.shutdown()
