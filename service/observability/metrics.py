"""What the server counts and times, for Prometheus. Each stage of a call is timed separately.

request = queue → decode → compute → answer; where other threads decode, decode comes first
"""

import contextlib
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    start_http_server,
)

from service.errors import IMAGE_ERRORS, UnavailableError
from service.observability.gpus import add_gpus

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128)
_MAX_SCRAPES = 16
"""Connections to `/metrics` at a time; each has a thread."""
_SCRAPE_TIMEOUT_S = 10
"""How long a connection to `/metrics` may be silent."""
_FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1)

REJECTIONS = (
    "queue_full", "bytes_full", "streams_full", "calls_full", "message_slow", "quota",
    "deadline_too_near", "deadline", "cancelled",
)  # fmt: skip
"""Why an image was not computed; for `streams_full`, `calls_full` and `message_slow`, why a call
was refused before its images were known."""


class FastGauge:
    """A gauge that only the event loop changes, so it needs neither lock nor checks.

    The loop changes some gauges several times a call, which made Prometheus' own too slow.
    """

    __slots__ = ("value",)

    def __init__(self, gauge: Gauge) -> None:
        """Have `gauge` report `value` when it is scraped."""
        self.value = 0
        gauge.set_function(lambda: self.value)


class Metrics:
    """The metrics of one server, in a registry of its own: a process may hold two servers."""

    def __init__(self, *, gpus: bool = False) -> None:
        """Begin to count; `gpus` adds what the driver says of GPUs.

        Replicas leave that to their parent: its sums would count a GPU several times.
        """
        self.registry = CollectorRegistry()
        if gpus:
            add_gpus(self.registry)
        ProcessCollector(registry=self.registry)
        self._add_stages()
        self._add_load()
        self._add_models()
        self._add_answers()
        # With every label present from the first scrape, a rate can be taken from there.
        for reason in REJECTIONS:
            self.rejected_images.labels(reason)
        for kind in (*IMAGE_ERRORS, "unhandled"):
            self.bad_images.labels(kind)

    def _add_stages(self) -> None:
        """Add how long calls and their stages take."""
        seconds = partial(Histogram, buckets=_SECONDS, registry=self.registry)
        self.request_seconds = seconds(
            "hansang_request_seconds",
            "Time of a call, or of one request of a stream, in the server.",
            ["method", "code"],
        )
        self.decode_seconds = seconds(
            "hansang_decode_seconds", "Time to decode and resize one image."
        )
        self.queue_seconds = seconds("hansang_queue_seconds", "Time of one image in the queue.")
        self.compute_seconds = seconds("hansang_compute_seconds", "Time of one run of the model.")
        self.batch_images = Histogram(
            "hansang_batch_images",
            "Images in one run of the model.",
            buckets=_IMAGES,
            registry=self.registry,
        )

    def _add_load(self) -> None:
        """Add what is in the server, and what it refuses."""
        gauge = partial(Gauge, registry=self.registry)
        counter = partial(Counter, registry=self.registry)
        self.queued_images = FastGauge(
            gauge("hansang_queued_images", "Images that wait for the model.")
        )
        self.admitted_images = FastGauge(
            gauge("hansang_admitted_images", "Images in the server, from arrival to answer.")
        )
        self.bytes_in_flight = FastGauge(
            gauge("hansang_bytes_in_flight", "Bytes of the images in the server.")
        )
        self.open_streams = gauge("hansang_open_streams", "Streams that are open.", ["method"])
        self.rejected_images = counter(
            "hansang_rejected_images", "Images that were not computed, by reason.", ["reason"]
        )
        self.bad_images = counter(
            "hansang_bad_images", "Images that are not accepted, by kind.", ["kind"]
        )

    def _add_models(self) -> None:
        """Add which models are loaded, and how they fare."""
        gauge = partial(Gauge, registry=self.registry)
        counter = partial(Counter, registry=self.registry)
        self.ready = gauge("hansang_ready", "1 while health says SERVING, else 0.")
        self.model_version = gauge("hansang_model_version", "The version that serves.", ["model"])
        self.model_info = gauge(
            "hansang_model_info",
            "1 for each loaded version, with the device that it runs on.",
            ["model", "version", "provider"],
        )
        self.faulty_models = gauge("hansang_faulty_models", "Loaded versions whose runs fail.")
        self.failed_runs = counter("hansang_failed_runs", "Runs of a model that raised.", ["model"])
        self.swaps = counter("hansang_swaps", "Versions that were loaded.", ["model"])
        self.swap_failures = counter(
            "hansang_swap_failures",
            "Versions that were refused.",
            ["model"],
        )
        self.other_answers = counter(
            "hansang_other_answers",
            "Versions that were refused because this machine answers otherwise with them.",
            ["model"],
        )
        self.out_of_step = gauge(
            "hansang_out_of_step",
            "1 while what the repository says of a model does not serve: refused, or gone.",
            ["model"],
        )
        self.pull_failures = counter(
            "hansang_pull_failures", "Failed reads of a model repository in a bucket."
        )
        self.replica_restarts = counter(
            "hansang_replica_restarts", "Replicas of `--workers` that ended and were started again."
        )

    def _add_answers(self) -> None:
        """Add what models answer, to notice when it drifts, and what is kept of it."""
        self.captured_images = Counter(
            "hansang_captured_images",
            "Photos kept for people to look at, by reason: unsure, random, mistake.",
            ["reason"],
            registry=self.registry,
        )
        self.uncaptured_images = Counter(
            "hansang_uncaptured_images",
            "Photos of the sample that were not kept, by reason: busy, full, failed.",
            ["reason"],
            registry=self.registry,
        )
        self.predictions = Counter(
            "hansang_predictions",
            "Images by the class that was found likeliest; beyond 1,000 classes the rarest are"
            " counted as '(other)'.",
            ["model", "label"],
            registry=self.registry,
        )
        self.confidence = Histogram(
            "hansang_confidence",
            "Probability of the likeliest class.",
            ["model"],
            buckets=_FRACTIONS,
            registry=self.registry,
        )


@contextlib.contextmanager
def exposed(registry: CollectorRegistry, host: str, port: int) -> Iterator[int]:
    """Serve `/metrics` from a thread, and yield its port; `port` 0 takes a free one.

    Raises:
        UnavailableError: The port is in use, or may not be opened.
    """
    try:
        server, thread = start_http_server(port, host, registry=registry)
    except OSError as error:
        raise UnavailableError(
            f"metrics cannot listen on {host}:{port} ({error.strerror});"
            " choose another with --metrics-port, or 0 for none"
        ) from error
    _limit(server)
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _limit(server: Any) -> None:
    """Let at most so many connections to `/metrics` be open, and none stay silent."""
    scrapes = threading.BoundedSemaphore(_MAX_SCRAPES)
    begin, work = server.process_request, server.process_request_thread

    def process_request(request: Any, client: Any) -> None:
        if scrapes.acquire(blocking=False):
            begin(request, client)
        else:
            server.shutdown_request(request)

    def process_request_thread(request: Any, client: Any) -> None:
        try:
            work(request, client)
        finally:
            scrapes.release()

    server.process_request = process_request
    server.process_request_thread = process_request_thread
    server.RequestHandlerClass = type(
        "Handler", (server.RequestHandlerClass,), {"timeout": _SCRAPE_TIMEOUT_S}
    )
