"""Small runs that nobody disturbed, to compare others with."""

from pathlib import Path
from unittest.mock import patch

import pytest

from tests.commands import hansang
from tests.once import made_once
from tests.thin import thin_network
from tests.training.runs.disturbed import CONFIG
from tests.training.runs.runs import arguments
from training.data.cache import DatasetCache
from training.loop.trainer import train


@pytest.fixture(scope="session")
def finished(dishes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run of the thin network that nobody disturbed, without a report; its home folder."""

    def make(home: Path) -> None:
        with thin_network(), patch("training.reports.tracking.reported", lambda _run_dir: ""):
            ended = hansang("train", *arguments(dishes, home), cwd=home)
        assert 0 == ended.returncode, ended.stderr

    return made_once(tmp_path_factory, "finished", make)


@pytest.fixture(scope="session")
def undisturbed(cache: DatasetCache, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the thin network that nobody disturbed."""

    def make(home: Path) -> None:
        with thin_network():
            train(CONFIG, cache, home / "r", device="cpu")

    return made_once(tmp_path_factory, "undisturbed", make) / "r"
