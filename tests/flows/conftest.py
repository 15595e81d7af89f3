"""One Prefect server for the whole session, and one small folder of drawn photos."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# Read when Prefect is imported: each flow would otherwise start a heartbeat thread.
os.environ["PREFECT_LOGGING_LEVEL"] = "WARNING"

from prefect.testing.utilities import prefect_test_harness

import flows  # noqa: F401  (sets Prefect's quiet, offline defaults first)


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A real Prefect server on a database of its own."""
    with prefect_test_harness(server_startup_timeout=180):
        yield


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three drawn dishes, with train, val and test folders."""
    from training.samples.sample import draw_photos

    return draw_photos(tmp_path_factory.mktemp("drawn") / "photos", classes=3, per_class=20)


@pytest.fixture(scope="session")
def trained(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs on the drawn dishes, which nobody changes."""
    from training.config import TrainConfig
    from training.data.prepare import prepare
    from training.loop.trainer import train

    home = tmp_path_factory.mktemp("trained")
    cache = prepare(photos, 32, cache_root=home / "cache")
    config = TrainConfig(image_size=32, epochs=2, batch_size=16, threads=1)
    train(config, cache, home / "runs" / "first", device="cpu")
    return home / "runs" / "first"
