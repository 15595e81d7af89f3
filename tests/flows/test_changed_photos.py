"""A night whose photos change while it trains: the run goes on, and what is new waits."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from flows import pipeline as night
from flows.tasks.parameters import Nightly, Places, Training
from tests.commands import hansang
from training.runs.run_directory import begun_in


class Released(Exception):  # noqa: N818 - no error
    """The flow has come to the release."""


@pytest.mark.parametrize("change", ["added", "gone", "all gone"])
def test_a_run_that_began_is_trained_on_whatever_became_of_the_photos(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """Neither the sheet nor the cache nor `strict` look at new photos, and no cache is built."""
    mine = tmp_path / "photos"
    shutil.copytree(photos, mine)
    places = Places(runs_dir=tmp_path / "runs", cache_dir=tmp_path / "cache")
    training = Training(epochs=1, image_size=32, overrides={"batch_size": "16", "threads": "1"})
    train = ["--run", "n", *training.arguments(), "--runs-dir", places.runs_dir,
             "--cache-dir", places.cache_dir]  # fmt: skip

    def trained(data: Path, *_: Any) -> None:
        ended = hansang("train", data, *train, cwd=tmp_path)
        assert 0 == ended.returncode, ended.stderr

    def released(*_: Any, **__: Any) -> None:
        raise Released

    monkeypatch.setattr("training.reports.tracking.reported", lambda _run_dir: "")
    monkeypatch.setattr(night, "trained", trained)
    monkeypatch.setattr(night, "released", released)
    trained(mine)
    before = json.loads((tmp_path / "runs/n/config.json").read_text())
    (tmp_path / "runs/n/result.json").unlink()
    first = next(mine.glob("train/*/*"))
    if change == "added":
        shutil.copy(first, first.with_name("more.jpg"))
    elif change == "gone":
        first.unlink()
    else:
        shutil.rmtree(mine)

    with pytest.raises(Released):
        night.pipeline.fn(
            mine, run_id="n", training=training, places=places,
            nightly=Nightly(strict=True, min_changed=1.0),
        )  # fmt: skip

    after = begun_in(tmp_path / "runs" / "n")
    assert (before["dataset_hash"], before["cache"]) == (after["dataset_hash"], after["cache"])
    assert (tmp_path / "runs/n/result.json").exists()
    assert 1 == len([path for path in (tmp_path / "cache").iterdir() if path.is_dir()])
