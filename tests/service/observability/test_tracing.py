"""Traces: stages as spans below the caller's, sent to a collector over a real socket."""

import asyncio
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from service.observability.tracing import OpenTelemetry
from service.pb import classifier_pb2 as pb

pytest.importorskip("opentelemetry.exporter.otlp.proto.grpc", reason="requirements/otel.txt")

from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as wire
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as wire_grpc

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector(wire_grpc.TraceServiceServicer):
    """Takes spans as an OpenTelemetry collector does."""

    def __init__(self) -> None:
        self.spans: list = []
        self.services: set[str] = set()

    def Export(self, request, context):  # noqa: N802
        """Keep what was sent."""
        for group in request.resource_spans:
            for attribute in group.resource.attributes:
                if attribute.key == "service.name":
                    self.services.add(attribute.value.string_value)
            for scope in group.scope_spans:
                self.spans += scope.spans
        return wire.ExportTraceServiceResponse()

    def named(self, name: str) -> list:
        """Return the spans of this name."""
        return [span for span in self.spans if span.name == name]


@pytest.fixture
def collector():
    """Give a collector that listens, with its `port`."""
    server = grpc.server(ThreadPoolExecutor(2))
    taking = Collector()
    wire_grpc.add_TraceServiceServicer_to_server(taking, server)
    taking.port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield taking
    server.stop(None)


async def test_stages_are_spans_below_the_call_and_the_call_below_its_caller(
    publish, serve, connect, photo, collector
):
    """A call's `traceparent` is its parent; queue, decode and compute lie within it, in order."""
    publish("food")
    server = await serve(otlp_endpoint=f"http://127.0.0.1:{collector.port}")
    await connect(server.port).Classify(
        pb.ClassifyRequest(images=[photo("red"), photo("blue")]),
        metadata=(("traceparent", f"00-{TRACE}-{CALLER}-01"),),
    )
    await server.stop()

    (call,) = collector.named("hansang.v1.Classifier/Classify")
    assert (TRACE, CALLER) == (call.trace_id.hex(), call.parent_span_id.hex())
    assert {"hansang"} == collector.services
    at = call.start_time_unix_nano
    slack_ns = 2_000_000  # two clocks are read one after the other
    for name in ("queue", "decode", "compute"):
        (span,) = collector.named(name)
        assert (call.trace_id, call.span_id) == (span.trace_id, span.parent_span_id)
        assert at - slack_ns <= span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= call.end_time_unix_nano + slack_ns
        at = span.start_time_unix_nano
        values = {each.key: each.value for each in span.attributes}
        assert "food" == values["model"].string_value
        assert (1, 2) == (values["version"].int_value, values["images"].int_value)


async def test_caller_decides_whether_it_is_sampled(publish, serve, connect, photo, collector):
    """A `traceparent` that says not sampled leaves no span; without one each call is a trace."""
    publish("food")
    server = await serve(otlp_endpoint=f"http://127.0.0.1:{collector.port}")
    stub = connect(server.port)
    request = pb.ClassifyRequest(images=[photo("red")])
    await stub.Classify(request, metadata=(("traceparent", f"00-{TRACE}-{CALLER}-00"),))
    await stub.Classify(request)
    await stub.Classify(request, metadata=(("traceparent", "no such thing"),))
    await server.stop()

    calls = collector.named("hansang.v1.Classifier/Classify")
    assert 2 == len(calls) == len({span.trace_id for span in calls})
    assert all(not span.parent_span_id and span.trace_id.hex() != TRACE for span in calls)


async def test_failed_call_is_an_error_span(publish, serve, connect, photo, collector):
    """The span of a call that was refused has its gRPC code, and no exception's text."""
    publish("food")
    server = await serve(otlp_endpoint=f"http://127.0.0.1:{collector.port}")
    with pytest.raises(grpc.aio.AioRpcError):
        await connect(server.port).Classify(pb.ClassifyRequest(images=[photo("red")], model="soup"))
    await server.stop()

    (call,) = collector.named("hansang.v1.Classifier/Classify")
    assert (2, "NOT_FOUND") == (call.status.code, call.status.message)
    assert not call.events


async def test_collector_that_is_away_costs_no_call(publish, serve, connect, photo):
    """Nobody listens at the endpoint: calls are answered, and the server ends within its time."""
    publish("food")
    server = await serve(otlp_endpoint="http://127.0.0.1:9")
    answer = await connect(server.port).Classify(pb.ClassifyRequest(images=[photo("red")]))
    assert answer.results[0].classes
    async with asyncio.timeout(15):
        await server.stop()


WITHOUT = """
import sys
class Absent:
    def find_spec(self, name, *_):
        if name.split(".")[0] == "opentelemetry":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import asyncio, json
from pathlib import Path
from service.config import ServerConfig
from service.server.server import Server
async def serve():
    settings = dict(repository=Path(sys.argv[1]), host="127.0.0.1", port=0)
    settings.update(http_port=None, metrics_port=None)
    async with Server(ServerConfig(**settings, device="cpu")) as server:
        print(server.port > 0)
    try:
        async with Server(ServerConfig(**settings, otlp_endpoint="http://localhost:4317")):
            pass
    except Exception as error:
        print(error)
asyncio.run(serve())
"""


def test_service_runs_where_opentelemetry_is_not_installed(publish, tmp_path):
    """Nothing of it is wanted unless asked for; asked for, a sentence says what to install."""
    publish("food")
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(tmp_path / "models")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    served, sentence = ran.stdout.splitlines()
    assert "True" == served
    assert "hansang[traces]" in sentence


def test_what_was_noted_last_is_sent_at_the_end(tmp_path):
    """Closing sends what was noted last, to whatever exporter."""
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    tracing = OpenTelemetry("", exporter=exporter)
    with tracing.call("/hansang.v1.Classifier/Classify", {}) as ended:
        tracing.stages({"decode": (0.0, 0.25)}, {"model": "food"})
        ended("OK")
    tracing.close()

    decode, call = exporter.get_finished_spans()
    assert ("decode", 250_000_000) == (decode.name, decode.end_time - decode.start_time)
    assert decode.parent.span_id == call.context.span_id
