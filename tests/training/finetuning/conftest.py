"""Weights to start from, and the photos to take them to."""

from pathlib import Path

import pytest

from training.data.cache import DatasetCache
from training.data.prepare import prepare
from training.model import pretrained
from training.model.pretrained import Start
from training.samples.sample import draw_photos

SMALL = {"batch_size": 16, "threads": 1, "transfer.views": 1, "transfer.head_share": 0.6}


@pytest.fixture(scope="session")
def start(run_dir: Path) -> Start:
    """The best epoch of a run on three drawn dishes."""
    return pretrained.read(run_dir)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> DatasetCache:
    """Three other dishes, at 32 pixels."""
    root = tmp_path_factory.mktemp("similar")
    photos = draw_photos(root / "photos", classes=3, per_class=20, similar=True)
    return prepare(photos, 32, cache_root=root / "cache")
