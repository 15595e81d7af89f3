"""What NVIDIA's management library (NVML) says of the machine's GPUs, for `/metrics`."""

import importlib
import logging
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

_LIBRARY = "pynvml"
LABELS = ("gpu", "name")

logger = logging.getLogger(__name__)


def add_gpus(registry: CollectorRegistry) -> None:
    """Add the GPUs to a registry, where `nvidia-ml-py` is installed and a driver is found.

    Each scrape asks the driver anew. What a driver does not tell is left out.
    """
    try:
        nvml = importlib.import_module(_LIBRARY)
    except ImportError:
        return
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        logger.debug("no figures of GPUs in /metrics: %s", error)
        return
    registry.register(Gpus(nvml))


def families() -> dict[str, GaugeMetricFamily]:
    """Return what is told of each GPU, without values."""
    return {
        "busy": GaugeMetricFamily(
            "hansang_gpu_utilisation",
            "Part of the last moment in which a kernel ran on the GPU, 0 to 1.",
            labels=LABELS,
        ),
        "used": GaugeMetricFamily(
            "hansang_gpu_memory_used_bytes",
            "Memory of the GPU that is taken, by all programs.",
            labels=LABELS,
        ),
        "total": GaugeMetricFamily("hansang_gpu_memory_bytes", "Memory of the GPU.", labels=LABELS),
        "power": GaugeMetricFamily("hansang_gpu_power_watts", "What the GPU draws.", labels=LABELS),
    }


class Gpus(Collector):
    """Asks NVML for every GPU that it sees, which CUDA_VISIBLE_DEVICES does not hide from it."""

    def __init__(self, nvml: Any) -> None:
        """Take the library, initialised."""
        self._nvml = nvml

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield utilisation, memory and power of each GPU."""
        nvml = self._nvml
        found = families()
        with suppress(nvml.NVMLError):
            for number in range(nvml.nvmlDeviceGetCount()):
                handle = nvml.nvmlDeviceGetHandleByIndex(number)
                name = nvml.nvmlDeviceGetName(handle)
                labels = [str(number), name.decode() if isinstance(name, bytes) else name]
                for key, value in self._figures(handle):
                    found[key].add_metric(labels, value)
        yield from found.values()

    def _figures(self, handle: Any) -> Iterator[tuple[str, float]]:
        nvml = self._nvml
        # A driver may know one and not the other: in a virtual machine, or of a part of a GPU.
        with suppress(nvml.NVMLError):
            yield "busy", nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
        with suppress(nvml.NVMLError):
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
            yield "used", memory.used
            yield "total", memory.total
        with suppress(nvml.NVMLError):
            yield "power", nvml.nvmlDeviceGetPowerUsage(handle) / 1000
