"""A small run that nobody disturbed, to compare others with."""

import gc
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.paths import ROOT
from tests.training.runs.disturbed import PROCESSES, go
from tests.training.runs.runs import command
from training.data.cache import DatasetCache


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """Free what a run that was stopped leaves: its error's frames hold 300 MB in a circle."""
    yield
    gc.collect()


@pytest.fixture(scope="session")
def finished(dishes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run that nobody disturbed; its home folder."""
    home = tmp_path_factory.mktemp("finished")
    subprocess.run(command(dishes, home), check=True, cwd=ROOT, capture_output=True)
    return home


@pytest.fixture(scope="session")
def undisturbed(
    cache: DatasetCache, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, float]:
    """A run that nobody disturbed, and how many seconds it took."""
    run_dir = tmp_path_factory.mktemp("undisturbed") / "r"
    process = PROCESSES.Process(target=go, args=(str(cache.path), str(run_dir)))
    process.start()
    while not run_dir.exists():
        time.sleep(0.001)
    started_s = time.monotonic()
    process.join()
    assert 0 == process.exitcode
    return run_dir, time.monotonic() - started_s
