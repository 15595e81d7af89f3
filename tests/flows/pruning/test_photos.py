"""Copies of a bucket's photos: what nothing uses goes, what somebody uses stays."""

import os
import shutil
import time
from pathlib import Path

import pytest

from flows.pruning import rule
from training.buckets import mirror, photos

DAY_S = 86400.0


@pytest.fixture
def work(tmp_path, monkeypatch) -> Path:
    """A folder of copies of its own."""
    monkeypatch.setenv("HANSANG_WORK", str(tmp_path / "work"))
    return tmp_path


def copy(url: str, *, days: float) -> Path:
    """Leave what a fetch leaves that was so many days ago."""
    folder = photos.place_of(url)
    folder.mkdir(parents=True)
    (folder / "a.jpg").write_bytes(bytes(1000))
    index = folder.parent / "index.sqlite"
    index.write_bytes(bytes(24))
    used_s = time.time() - days * DAY_S
    os.utime(index, (used_s, used_s))
    return folder


def prune(work: Path) -> list[rule.Removable]:
    """Remove what may be removed, and return it."""
    found = rule.removable(work / "runs", work / "cache", work / "models", days=14)
    for each in found:
        rule.remove(each)
    return found


def test_a_copy_goes_when_nothing_has_used_it_for_so_long(work):
    """With its index, and nothing is left; that of yesterday stays; a second time is quiet."""
    old, fresh = copy("s3://a/photos", days=15), copy("s3://b/photos", days=1)

    (found,) = prune(work)

    assert (old.parent, 1024) == (found.path, found.num_bytes)
    assert "nothing has used" in found.why
    assert [fresh.parent] == list(photos.home().iterdir())
    assert [] == prune(work)


def test_a_copy_that_is_being_fetched_stays(work):
    """Its index is as old as its last fetch until this one has listed the bucket."""
    old = copy("s3://a/photos", days=15)
    with mirror.locked(old):
        assert [old.parent] == [each.path for each in prune(work)]
        assert (old / "a.jpg").is_file()
    prune(work)
    assert not old.parent.exists()


def test_what_a_killed_prune_left_goes_with_the_next(work, monkeypatch):
    """Killed between its two steps: the copy is gone at once, and its bytes a night later."""
    old = copy("s3://a/photos", days=15)
    with monkeypatch.context() as killed:
        killed.setattr(shutil, "rmtree", lambda *_, **__: None)
        prune(work)
    assert not old.parent.exists()
    assert [] == list(photos.last_used())

    assert ["left by a prune that was killed"] == [each.why for each in prune(work)]
    assert [] == list(photos.home().iterdir())


def test_a_pruned_copy_is_fetched_again(work, bucket):
    """The same bytes from a real store; a night that only looks at the bucket keeps the copy."""
    bucket.pipe_file("bucket/photos/train/rice/a.jpg", b"one")
    folder = photos.fetched(Path("s3://bucket/photos"))
    index = folder.parent / "index.sqlite"
    os.utime(index, (1, 1))
    photos.fetched(Path("s3://bucket/photos"))
    assert [] == prune(work)

    os.utime(index, (1, 1))
    assert [folder.parent] == [each.path for each in prune(work)]
    assert b"one" == (photos.fetched(Path("s3://bucket/photos")) / "train/rice/a.jpg").read_bytes()
