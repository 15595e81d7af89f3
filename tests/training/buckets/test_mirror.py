"""Runs and caches in a bucket, on a real S3 server, with machines and networks that fail."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from storage import Bucket, StorageError, TakenError
from tests.paths import ROOT
from training.buckets import mirror
from training.buckets.snapshot import Mirror
from training.data import decoding, prepare
from training.errors import RunError
from training.runs import checkpoint

URL = "s3://bucket/runs/first"
RUN = Path(URL)


@pytest.fixture
def machine(bucket: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], Path]:
    """Go to a machine with `machine("one")`; give where its copy of the run lies."""

    def go(name: str) -> Path:
        monkeypatch.setenv("HANSANG_WORK", str(tmp_path / name))
        return mirror.local_path(RUN)

    return go


def write(folder: Path, **files: str) -> None:
    """Write files into a run, as checkpoints and logs are written."""
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name(f".tmp-{path.name}").write_text(text)
        path.with_name(f".tmp-{path.name}").replace(path)


def read(folder: Path) -> dict[str, str]:
    """Return what is in a run, but for what is hidden."""
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


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


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until it holds, ten minutes at most."""
    end_s = time.monotonic() + 600
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.05)


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
        patched.setattr("storage._PAUSES_S", ())

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
                    "--epochs", "12", "--batch-size", "10", "--threads", "1", "--json",
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
