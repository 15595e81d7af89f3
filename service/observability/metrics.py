"""What the server counts and times, for Prometheus. Stages are timed apart.

request = queue → decode → compute → answer; where other threads decode, decode is first
"""

import contextlib
from collections.abc import Iterator

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    start_http_server,
)

from service.errors import IMAGE_ERRORS, UnavailableError

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128)
_FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1)

REJECTIONS = (
    "queue_full", "bytes_full", "streams_full", "quota", "deadline_too_near", "deadline",
    "cancelled",
)  # fmt: skip
"""Why an image, or for `streams_full` a stream, was not computed."""


class Level:
    """What only the event loop changes, several times a call: without a gauge's lock and checks."""

    __slots__ = ("value",)

    def __init__(self, gauge: Gauge) -> None:
        """Let the gauge look here when it is asked."""
        self.value = 0
        gauge.set_function(lambda: self.value)


class Metrics:
    """The measures of one server, in a registry of its own (a process may hold two servers)."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.request_seconds = Histogram(
            "hansang_request_seconds",
            "Time of a call, or of one request of a stream, in the server.",
            ["method", "code"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.decode_seconds = Histogram(
            "hansang_decode_seconds",
            "Time to decode and resize one image.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.queue_seconds = Histogram(
            "hansang_queue_seconds",
            "Time of one image in the queue.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.compute_seconds = Histogram(
            "hansang_compute_seconds",
            "Time of one run of the model.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.batch_images = Histogram(
            "hansang_batch_images",
            "Images in one run of the model.",
            buckets=_IMAGES,
            registry=registry,
        )
        self.queued_images = Level(
            Gauge("hansang_queued_images", "Images that wait for the model.", registry=registry)
        )
        self.admitted_images = Level(
            Gauge(
                "hansang_admitted_images",
                "Images in the server, from arrival to answer.",
                registry=registry,
            )
        )
        self.bytes_in_flight = Level(
            Gauge(
                "hansang_bytes_in_flight", "Bytes of the images in the server.", registry=registry
            )
        )
        self.open_streams = Gauge(
            "hansang_open_streams", "Streams that are open.", ["method"], registry=registry
        )
        self.ready = Gauge(
            "hansang_ready", "1 while health says SERVING, else 0.", registry=registry
        )
        self.model_version = Gauge(
            "hansang_model_version", "The version that serves.", ["model"], registry=registry
        )
        self.model_info = Gauge(
            "hansang_model_info",
            "1 for each loaded version, with the device that it runs on.",
            ["model", "version", "provider"],
            registry=registry,
        )
        self.faulty_models = Gauge(
            "hansang_faulty_models", "Loaded versions whose runs fail.", registry=registry
        )
        self.rejected_images = Counter(
            "hansang_rejected_images",
            "Images that were not computed, by reason.",
            ["reason"],
            registry=registry,
        )
        self.bad_images = Counter(
            "hansang_bad_images", "Images that are not accepted, by kind.", ["kind"],
            registry=registry,
        )  # fmt: skip
        self.failed_runs = Counter(
            "hansang_failed_runs", "Runs of a model that raised.", ["model"], registry=registry
        )
        self.swaps = Counter(
            "hansang_swaps", "Versions that were loaded.", ["model"], registry=registry
        )
        self.swap_failures = Counter(
            "hansang_swap_failures",
            "Versions that were refused while another one served.",
            ["model"],
            registry=registry,
        )
        self.pull_failures = Counter(
            "hansang_pull_failures",
            "Looks at a model repository in a bucket that failed.",
            registry=registry,
        )
        self.replica_restarts = Counter(
            "hansang_replica_restarts",
            "Replicas of `--workers` that ended and were started again.",
            registry=registry,
        )
        self.predictions = Counter(
            "hansang_predictions",
            "Images by the class that was found likeliest.",
            ["model", "label"],
            registry=registry,
        )
        self.confidence = Histogram(
            "hansang_confidence",
            "Probability of the likeliest class.",
            ["model"],
            buckets=_FRACTIONS,
            registry=registry,
        )
        # So that a rate can be taken from the first scrape.
        for reason in REJECTIONS:
            self.rejected_images.labels(reason)
        for kind in (*IMAGE_ERRORS, "unhandled"):
            self.bad_images.labels(kind)


@contextlib.contextmanager
def exposed(registry: CollectorRegistry, host: str, port: int) -> Iterator[int]:
    """Serve `/metrics` from a thread; yield the port, which is a free one if `port` is 0.

    Raises:
        UnavailableError: The port cannot be had.
    """
    try:
        server, thread = start_http_server(port, host, registry=registry)
    except OSError as error:
        raise UnavailableError(
            f"metrics cannot listen on {host}:{port} ({error.strerror});"
            " choose another with --metrics-port, or 0 for none"
        ) from error
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
