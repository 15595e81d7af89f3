"""Photos that the source learnt are no photos to judge a fine-tuning by."""

import shutil
from dataclasses import replace

import pytest

from tests.commands import hansang
from training.data.cache import DatasetCache
from training.data.prepare import prepare
from training.errors import DataError
from training.finetuning.seen import require_unseen


@pytest.fixture
def swapped(start, dishes, tmp_path):
    """A folder that validates on two photos of the source's train/, and one that it never saw."""
    source = DatasetCache.open(start.photos).splits
    *learns, last = source["val"].files
    folder = tmp_path / "photos"
    for split, files in (("train", learns), ("val", [*source["train"].files[:2], last])):
        for number, file in enumerate(files):
            label = folder / split / ("one", "two")[number % 2]
            label.mkdir(parents=True, exist_ok=True)
            shutil.copy(dishes / file, label / f"{number}.jpg")
    return folder


def test_photos_that_the_source_learnt_are_refused_by_name(swapped, start, tmp_path):
    """By their content, whatever they are called now; where the source is unknown, not at all."""
    cache = prepare(swapped, 32, cache_root=tmp_path / "cache")

    with pytest.raises(DataError, match=r"2 of the 3 photos of val .* trained on, such as val/one"):
        require_unseen(cache, start)
    require_unseen(cache, replace(start, photos=None))
    require_unseen(cache, replace(start, photos=tmp_path / "gone"))
    require_unseen(DatasetCache.open(start.photos), start)  # its own val/ it has not learnt


def test_finetune_refuses_before_it_trains(swapped, run_dir, tmp_path):
    """One sentence, and no run."""
    done = hansang(
        "finetune", swapped, "--from", run_dir, "--strategy", "linear-probe", "--epochs", 1,
        "--image-size", 32, "--threads", 1, "--run", "r", "--runs-dir", "runs", "--cache-dir", "c",
        cwd=tmp_path,
    )  # fmt: skip

    assert 0 != done.returncode
    assert "2 of the 3 photos of val" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs" / "r" / "config.json").exists()
