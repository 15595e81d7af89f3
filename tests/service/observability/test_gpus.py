"""The GPUs in `/metrics`: what NVML says, where it is there; a fake stands in for its library."""

import sys
from types import SimpleNamespace

import pytest
from prometheus_client import generate_latest

from service.observability.metrics import Metrics


class FakeNvml(SimpleNamespace):
    """NVML with two GPUs, the second of which does not tell its utilisation."""

    class NVMLError(Exception):
        """What the driver refuses."""

    driver = True

    def nvmlInit(self):  # noqa: N802
        if not self.driver:
            raise self.NVMLError("Driver Not Loaded")

    def nvmlDeviceGetCount(self):  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, number):  # noqa: N802
        return number

    def nvmlDeviceGetName(self, handle):  # noqa: N802
        return b"T4" if handle else "H100"

    def nvmlDeviceGetUtilizationRates(self, handle):  # noqa: N802
        if handle:
            raise self.NVMLError("Not Supported")
        return SimpleNamespace(gpu=40)

    def nvmlDeviceGetMemoryInfo(self, handle):  # noqa: N802
        return SimpleNamespace(used=2**30, total=2**33)

    def nvmlDeviceGetPowerUsage(self, handle):  # noqa: N802
        return 71_500


def scraped(*, gpus: bool = True) -> str:
    """Return what a scrape gets."""
    return generate_latest(Metrics(gpus=gpus).registry).decode()


def test_each_gpu_has_its_figures(monkeypatch):
    """Utilisation, memory and power by GPU; what a driver does not tell is left out."""
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())

    text = scraped()

    assert 'hansang_gpu_utilisation{gpu="0",name="H100"} 0.4' in text
    assert 'hansang_gpu_utilisation{gpu="1"' not in text
    assert 'hansang_gpu_memory_used_bytes{gpu="1",name="T4"} 1.073741824e+09' in text
    assert 'hansang_gpu_memory_bytes{gpu="1",name="T4"} 8.589934592e+09' in text
    assert 'hansang_gpu_power_watts{gpu="0",name="H100"} 71.5' in text


@pytest.mark.parametrize("library", [None, FakeNvml(driver=False)])
def test_without_the_library_or_a_driver_there_are_none(monkeypatch, library):
    """The server starts all the same, and `/metrics` has no word of GPUs."""
    monkeypatch.setitem(sys.modules, "pynvml", library)

    assert "hansang_gpu" not in scraped()


def test_a_server_on_a_cpu_does_not_ask(monkeypatch):
    """Its figures would say nothing of what serves; a replica's parent asks for it."""
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())

    assert "hansang_gpu" not in scraped(gpus=False)
