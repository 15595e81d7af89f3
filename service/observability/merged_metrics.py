"""One `/metrics` for several replicas.

scrape ─► the parent ─┬─► a replica's own /metrics, on loopback ─┐
                      └─► another's ─────────────────────────────┴─► one value for each series
"""

import http.client
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import chain

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

_SCRAPE_S = 1.0
"""A replica that takes longer counts with the values of the scrape before."""

_MERGED_BY: dict[str, Callable[[Iterable[float]], float]] = {
    "hansang_ready": min,
    "hansang_model_version": max,
    "hansang_model_info": max,
    "hansang_faulty_models": max,
    "hansang_out_of_step": max,
    "process_start_time_seconds": min,
    # The limit on descriptors is reached by the process that has the most of them.
    "process_open_fds": max,
    "process_max_fds": min,
}
"""How series are merged that cannot be added up."""


class MergedMetrics(Collector):
    """The metrics of this process and of its replicas.

    The counters of a replica that has ended stay in the sum, because counters must never fall.

    Attributes:
        registry: A registry with only this collector.
    """

    def __init__(self, own: CollectorRegistry) -> None:
        self.registry = CollectorRegistry()
        self._own = own
        self._lock = threading.Lock()
        self._ports: dict[int, int] = {}
        self._last: dict[int, list[Metric]] = {}
        self._ended: list[Metric] = []
        self.registry.register(self)

    def add(self, replica: int, port: int) -> None:
        """Add a replica, which serves its metrics at a port of this machine."""
        with self._lock:
            self._ports[replica] = port

    def remove(self, replica: int) -> None:
        """Remove a replica that ended, but keep its counters."""
        with self._lock:
            self._ports.pop(replica, None)
            counted = (
                family
                for family in self._last.pop(replica, [])
                if family.type in ("counter", "histogram")
            )
            self._ended = _merged(chain(self._ended, counted))

    def collect(self) -> Iterator[Metric]:
        """Scrape every replica, and yield the merged families."""
        with self._lock:
            ports = dict(self._ports)
        for replica, port in ports.items():
            with suppress(OSError, http.client.HTTPException, ValueError):
                families = _scrape(port)
                with self._lock:
                    if self._ports.get(replica) == port:
                        self._last[replica] = families
        own = list(self._own.collect())
        with self._lock:
            merged = _merged(chain(own, *self._last.values(), self._ended))
        yield from merged


def _scrape(port: int) -> list[Metric]:
    # Not urllib, which would use a proxy that the environment names.
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_SCRAPE_S)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    finally:
        connection.close()
    return list(text_string_to_metric_families(text))


def _merged(families: Iterable[Metric]) -> list[Metric]:
    """Return one family for each name, with one sample for each name and labels."""
    merged: dict[str, Metric] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], list[float]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for family in families:
        # The time when a series began means little for a sum.
        if family.name.endswith("_created"):
            continue
        merged.setdefault(family.name, Metric(family.name, family.documentation, family.type))
        for sample in family.samples:
            if not sample.name.endswith("_created"):
                key = sample.name, tuple(sorted(sample.labels.items()))
                values[family.name][key].append(sample.value)
    for name, metric in merged.items():
        combine = _MERGED_BY.get(name, sum)
        for (sample_name, labels), found in values[name].items():
            metric.add_sample(sample_name, dict(labels), combine(found))
    return list(merged.values())
