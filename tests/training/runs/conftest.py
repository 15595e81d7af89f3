"""A small run that nobody disturbed, to compare others with."""

import subprocess
import time
from pathlib import Path

import pytest

from tests.paths import ROOT
from tests.training.runs.disturbed import PROCESSES, go
from tests.training.runs.runs import command
from training.data.cache import DatasetCache


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
