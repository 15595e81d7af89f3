"""A machine: a folder of its own that mirrors the bucket."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from training.buckets import mirror

URL = "s3://bucket/runs/first"


RUN = Path(URL)


@pytest.fixture
def machine(bucket: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], Path]:
    """Go to a machine with `machine("one")`; give where its copy of the run lies."""

    def go(name: str) -> Path:
        monkeypatch.setenv("HANSANG_WORK", str(tmp_path / name))
        return mirror.local_path(RUN)

    return go
