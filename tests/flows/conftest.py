"""One Prefect server for the whole session, and the drawn dishes with a run on them."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# Read when Prefect is imported: each flow would otherwise start a heartbeat thread.
os.environ["PREFECT_LOGGING_LEVEL"] = "WARNING"

import flows  # noqa: F401  (sets Prefect's quiet, offline defaults first)


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A real Prefect server on a database of its own."""
    # It imports Prefect's whole server, which no other process of pytest needs.
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=180):
        yield


@pytest.fixture(scope="session")
def photos(dishes: Path) -> Path:
    """Three drawn dishes, with train, val and test folders."""
    return dishes


@pytest.fixture(scope="session")
def trained(run_dir: Path) -> Path:
    """A run on the drawn dishes, which nobody changes."""
    return run_dir


@pytest.fixture(scope="module", autouse=True)
def _quick_exports(exports_once: None) -> None:
    """Candidates are exported by the dozen; `tests/training/export` tests the exporter."""
