"""Machines that die and networks that fail leave a whole state, and runs go on elsewhere."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from storage import Bucket, StorageError, TakenError
from tests.paths import ROOT
from tests.training.buckets.conftest import RUN, URL
from tests.training.buckets.files import read, wait_for, write
from training.buckets import mirror
from training.buckets.snapshot import Mirror
from training.errors import RunError
from training.runs import checkpoint


@pytest.mark.parametrize("broken", range(6))
def test_machine_that_dies_anywhere_in_a_push_leaves_a_whole_state(machine, monkeypatch, broken):
    """Its writes end after `broken` of them; what another fetches is the old state or the new."""
    one = machine("one")
    old, new = {"config": "c", "step": "1", "log": "a"}, {"config": "c", "step": "2", "log": "b"}
    write(one, **old)
    mirror.push_once(RUN)
    write(one, **new)
    left = [broken]
    with monkeypatch.context() as patched:
        for name in ("put", "replace", "remove"):
            inner = getattr(Bucket, name)

            def method(*given: Any, _inner: Any = inner) -> Any:
                if not left[0]:
                    raise StorageError("the machine is gone")
                left[0] -= 1
                return _inner(*given)

            patched.setattr(Bucket, name, method)
        try:
            Mirror(URL, mirror.local_path(RUN)).push()
            pushed = True
        except StorageError:
            pushed = False
    machine("two")
    found = read(mirror.pull(RUN))
    assert found in (old, new)
    assert found == new or not pushed
    machine("one")
    mirror.pull(RUN)
    Mirror(URL, mirror.local_path(RUN)).push()
    machine("two")
    mirror.pull(RUN)
    assert 4 == len(Bucket(URL).names())


def test_network_that_fails_a_third_of_the_time_costs_time_alone(machine, network):
    """Connections are closed, refused and cut in mid-body, both ways."""
    machine("one")
    files = {f"file_{number}": str(number) * 5000 for number in range(8)}
    with network.used():
        network.bad = 0.33
        with mirror.working_copy(RUN) as here:
            write(here, **files)
        other = machine("two")
        mirror.pull(RUN)
    assert files == read(other)
    assert network.hit > 3


def test_bucket_that_is_away_stops_no_work(machine, network):
    """Pushes fail with one warning, and the last one with a sentence; the copy has everything."""
    one = machine("one")
    with network.used(), pytest.MonkeyPatch.context() as patched:
        patched.setattr("storage.bucket._PAUSES_S", ())

        def work() -> None:
            with mirror.working_copy(RUN) as here:
                network.go_away()
                write(here, step="1")
                time.sleep(1.5)

        with pytest.raises(StorageError, match="s3://bucket/runs/first"):
            work()
    assert {"step": "1"} == read(one)
    network.come_back()
    with mirror.working_copy(RUN):
        pass
    machine("two")
    assert {"step": "1"} == read(mirror.pull(RUN))


def test_damage_in_the_bucket_is_named(machine, bucket):
    """A byte that has changed, and a manifest that leads elsewhere, are refused."""
    write(machine("one"), weights="heavy")
    mirror.push_once(RUN)
    (name,) = (each for each in bucket.find("bucket/runs/first") if each.endswith("weights"))
    bucket.pipe_file(name, b"light")
    two = machine("two")
    with pytest.raises(RunError, match="weights is damaged"):
        mirror.pull(RUN)
    assert not two.exists()
    for files in ({"../out": "a/b"}, {"/out": "a/b"}, {"x": "../y"}, ["x"]):
        text = json.dumps({"format": 1, "files": files})
        bucket.pipe_file("bucket/runs/first/manifest.json", text.encode())
        with pytest.raises(RunError, match=r"manifest\.json is damaged"):
            mirror.pull(RUN)
    assert not two.exists()


def test_write_that_was_taken_first_is_told(bucket):
    """Of two that replace one file, the second is refused, also where there was none."""
    there = Bucket("s3://bucket/some")
    tag = there.replace("file", b"one", None)
    with pytest.raises(TakenError):
        there.replace("file", b"two", None)
    later = there.replace("file", b"three", tag)
    with pytest.raises(TakenError):
        there.replace("file", b"four", tag)
    assert (b"three", later) == there.tagged("file")


@pytest.fixture
def command(bucket: Any, dishes: Path, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Start `hansang train` on a machine with `command("one", "s3://bucket/runs")`."""
    started = []

    def begin(machine: str, runs: str, cache_dir: str) -> subprocess.Popen[str]:
        started.append(
            subprocess.Popen(
                [
                    sys.executable, "-m", "hansang", "train", str(dishes), "--run", "first",
                    "--runs-dir", runs, "--cache-dir", cache_dir, "--image-size", "32",
                    # Long enough to be killed between two pushes, on a fast machine too.
                    "--epochs", "40", "--batch-size", "10", "--threads", "1", "--json",
                ],
                env={**os.environ, "PYTHONPATH": str(ROOT), "HANSANG_WORK": str(tmp_path / machine),
                     "HANSANG_PROGRESS_S": "0"},
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
        )  # fmt: skip
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_run_killed_on_one_machine_goes_on_on_another_bit_exactly(command, tmp_path):
    """From the bucket alone; and it ends with the very weights of a run that nobody disturbed."""
    first = command("one", "s3://bucket/runs", "s3://bucket/caches")
    there = Bucket(URL)

    def steps() -> list[str]:
        manifest = there.read("manifest.json")
        files = json.loads(manifest)["files"] if manifest else {}
        return sorted(name for name in files if "step-" in name)

    wait_for(lambda: steps() or first.poll() is not None)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    taken_up = steps()[-1]
    second = command("two", "s3://bucket/runs", "s3://bucket/caches")
    told, err = second.communicate(timeout=800)
    assert 0 == second.returncode, err
    assert "fetching s3://bucket/runs/first" in err
    whole = command("three", str(tmp_path / "runs"), str(tmp_path / "cache"))
    wanted, err = whole.communicate(timeout=800)
    assert 0 == whole.returncode, err
    last = max((tmp_path / "runs" / "first" / "checkpoints").glob("step-*"))
    assert taken_up < f"checkpoints/{last.name}", "it was killed before its end"
    mine = tmp_path / "two" / "bucket" / "runs" / "first" / "checkpoints" / last.name
    ours, theirs = checkpoint.load(mine)[0], checkpoint.load(last)[0]
    assert ours.keys() == theirs.keys()
    assert all((ours[name] == theirs[name]).all() for name in ours)
    results = [json.loads(each) for each in (told, wanted)]
    for result in results:
        del result["run_dir"], result["photos_per_s"]
    assert results[0] == results[1]
