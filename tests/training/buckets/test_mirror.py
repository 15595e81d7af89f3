"""Runs and caches in a bucket, on a real S3 server: what is pushed, fetched, and shared."""

import os
import threading
from pathlib import Path

import pytest

from storage import Bucket
from tests.training.buckets.conftest import RUN, URL
from tests.training.buckets.files import read, wait_for, write
from training.buckets import mirror
from training.buckets.snapshot import Mirror
from training.data import decoding, prepare
from training.errors import RunError


def test_folder_is_worked_on_where_it_lies(tmp_path):
    """Nothing of this touches a run that is a folder."""
    with mirror.working_copy(tmp_path / "runs" / "first") as here:
        assert tmp_path / "runs" / "first" == here == mirror.local_path(here) == mirror.pull(here)
    assert not list(tmp_path.iterdir())


def test_what_changes_is_pushed_and_fetched_elsewhere(machine):
    """While the work goes on, not at its end alone; only what is new is sent."""
    one = machine("one")
    with mirror.working_copy(RUN) as here:
        assert one == here
        write(here, config="c", checkpoints__step_1="1", deep__er__log="l")
        os.link(here / "checkpoints" / "step_1", here / "checkpoints" / "best")
        wait_for(lambda: "manifest.json" in Bucket(URL).names())
        other = machine("two")
        mirror.pull(RUN)
        whole = {"config": "c", "checkpoints/step_1": "1", "checkpoints/best": "1",
                 "deep/er/log": "l"}  # fmt: skip
        assert whole == read(other)
    names = Bucket(URL).names()
    assert 4 == len(names), "the best checkpoint is sent once"
    Bucket(URL).write("soup.jpg", b"somebody else's")
    machine("one")
    (one / "checkpoints" / "step_1").unlink()
    with mirror.working_copy(RUN) as here:
        write(here, checkpoints__step_2="2")
    machine("two")
    mirror.pull(RUN)
    assert {"config": "c", "checkpoints/step_2": "2", "checkpoints/best": "1",
            "deep/er/log": "l"} == read(other)  # fmt: skip
    left = Bucket(URL).names()
    assert 6 == len(left), "what nobody names is removed"
    assert "soup.jpg" in left


def test_copy_that_is_ahead_is_kept_and_one_that_is_behind_is_not(machine):
    """A machine that died before its push has more than the bucket, until another went on."""
    one = machine("one")
    with mirror.working_copy(RUN) as here:
        write(here, step="1")
    write(one, step="2")
    assert one == mirror.pull(RUN)
    assert {"step": "2"} == read(one)
    machine("two")
    with mirror.working_copy(RUN) as here:
        assert {"step": "1"} == read(here)
        write(here, step="3")
    machine("one")
    mirror.pull(RUN)
    assert {"step": "3"} == read(one)


def test_of_two_machines_that_go_on_one_is_stopped(machine):
    """The first hears of it while it works, ends with a sentence, and pushes nothing."""
    heard = threading.Event()
    machine("one")

    def work() -> None:
        with mirror.working_copy(RUN, lost=heard.set) as here:
            write(here, step="1")
            wait_for(lambda: Mirror(URL, mirror.local_path(RUN)).is_there())
            machine("two")
            with mirror.working_copy(RUN) as other:
                write(other, step="from two")
            write(here, step="2")
            assert heard.wait(30)

    with pytest.raises(RunError, match="another machine went on"):
        work()
    machine("three")
    assert {"step": "from two"} == read(mirror.pull(RUN))


def test_two_processes_of_one_machine_do_not_share_a_copy(machine):
    """The second is refused before it touches anything."""
    machine("one")
    with (
        mirror.working_copy(RUN),
        pytest.raises(RunError, match="another process of this machine"),
        mirror.working_copy(RUN),
    ):
        pass


def test_cache_is_fetched_instead_of_built(machine, dishes, bucket, monkeypatch):
    """Another machine decodes nothing; one whose push was cut off does not count."""
    machine("one")
    root = Path("s3://bucket/caches")
    built = prepare.prepare(dishes, 32, cache_root=root)
    machine("two")
    with monkeypatch.context() as patched:
        patched.setattr(decoding, "load_square", None)
        found = prepare.prepare(dishes, 32, cache_root=root)
    assert built.path != found.path
    assert built.dataset_hash == found.dataset_hash
    for name, split in built.splits.items():
        assert (split.images == found.splits[name].images).all()
    bucket.rm_file(f"bucket/caches/{built.path.name}/manifest.json")
    machine("three")
    assert built.dataset_hash == prepare.prepare(dishes, 32, cache_root=root).dataset_hash
    assert f"bucket/caches/{built.path.name}/manifest.json" in bucket.find("bucket/caches")
