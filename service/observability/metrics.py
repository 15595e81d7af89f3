"""What the server counts and times, for Prometheus. Stages are timed apart.

request = queue → decode → compute → answer; where other threads decode, decode is first
"""

import collections
import contextlib
from collections.abc import Hashable, Iterator
from typing import TypeAlias

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    start_http_server,
)
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from service.errors import IMAGE_ERRORS, UnavailableError

Told: TypeAlias = tuple[str, str, list[tuple[str, str]], float]
"""Family, name, labels and value of one sample."""

Counts: TypeAlias = "collections.Counter[tuple[str, str, tuple[tuple[str, str], ...]]]"

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

    def samples(self) -> list[Told]:
        """Return what was counted, for another process."""
        return [
            (family.name, sample.name, list(sample.labels.items()), sample.value)
            for family in self.registry.collect()
            if family.name.startswith("hansang_")
            for sample in family.samples
            if not sample.name.endswith("_created")
        ]


class SummedMetrics(Collector):
    """The measures of this process, with those added that others told.

    What a process that ended has counted stays: counters never fall.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self._own = registry
        self._told: dict[Hashable, list[Told]] = {}
        self._gone: Counts = collections.Counter()

    def update(self, who: Hashable, samples: list[Told]) -> None:
        """Note what a process has counted so far."""
        self._told[who] = samples

    def forget(self, who: Hashable) -> None:
        """Note that a process has ended."""
        for key, value in _by_key(self._told.pop(who, [])).items():
            if key[1].endswith(("_total", "_count", "_sum", "_bucket")):
                self._gone[key] += value

    def collect(self) -> Iterator[Metric]:
        """Add it all up."""
        more = self._gone.copy()
        for samples in list(self._told.values()):
            more.update(_by_key(samples))
        for family in self._own.collect():
            added = Metric(family.name, family.documentation, family.type)
            for sample in family.samples:
                key = (family.name, sample.name, tuple(sample.labels.items()))
                added.samples.append(sample._replace(value=sample.value + more.pop(key, 0)))
            for key in [key for key in more if key[0] == family.name]:
                added.add_sample(key[1], dict(key[2]), more.pop(key))
            yield added


def _by_key(samples: list[Told]) -> Counts:
    return collections.Counter(
        {
            (family, name, tuple((key, value) for key, value in labels)): number
            for family, name, labels, number in samples
        }
    )


@contextlib.contextmanager
def exposed(metrics: "Metrics | SummedMetrics", host: str, port: int) -> Iterator[int]:
    """Serve `/metrics` from a thread; yield the port, which is a free one if `port` is 0.

    Raises:
        UnavailableError: The port cannot be had.
    """
    try:
        server, thread = start_http_server(port, host, registry=metrics.registry)
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
