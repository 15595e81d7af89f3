"""A run directory on a full or read-only disk, and one that another run would go on with."""

import shutil
import subprocess

import pytest

from tests.training.runs.disturbed import CONFIG, assert_same
from training.data.prepare import prepare
from training.errors import RunError
from training.loop.trainer import train

pytestmark = pytest.mark.usefixtures("thin")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, too small for the run; `resize(MiB)`, `read_only(bool)`."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(*options: str) -> bool:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", ",".join(options), "hansang-test", disk],
            capture_output=True,
        )
        return done.returncode == 0

    if not shutil.which("mount") or not mount("size=3m"):
        pytest.skip("mounting a small file system needs root")
    yield disk, mount
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_stops_a_run_that_then_goes_on(undisturbed, cache, small_disk):
    """The error says what to do; with room made, the same command ends with the same weights."""
    disk, mount = small_disk
    run_dir = disk / "r"

    with pytest.raises(RunError, match=r"free some space.*the same command again"):
        train(CONFIG, cache, run_dir, device="cpu")
    assert list((run_dir / "checkpoints").glob("step-*"))
    assert not list((run_dir / "checkpoints").glob(".tmp-*"))
    assert mount("remount", "size=1g")
    train(CONFIG, cache, run_dir, device="cpu")

    assert_same(undisturbed, run_dir)


def test_a_disk_that_is_full_at_birth_is_one_sentence(undisturbed, cache, small_disk):
    """Not even the settings fit: nothing half-written is left, and with room the run begins."""
    disk, mount = small_disk
    assert mount("remount", "size=4k")

    with pytest.raises(RunError, match=r"No space left.*free some space.*the same command again"):
        train(CONFIG, cache, disk / "r", device="cpu")
    assert [".lock"] == [path.name for path in (disk / "r").iterdir()]
    assert mount("remount", "size=1g")
    train(CONFIG, cache, disk / "r", device="cpu")

    assert_same(undisturbed, disk / "r")


def test_a_read_only_run_directory_is_one_sentence(undisturbed, cache, small_disk):
    """Nothing is lost, and nothing is begun anew."""
    disk, mount = small_disk
    assert mount("remount", "size=1g")
    stops = iter([False] * 5)
    with pytest.raises(RunError, match="the same command goes on"):
        train(CONFIG, cache, disk / "r", device="cpu", should_stop=lambda: next(stops, True))
    assert mount("remount", "ro")

    with pytest.raises(RunError, match="cannot write to the run directory"):
        train(CONFIG, cache, disk / "r", device="cpu")
    assert mount("remount", "rw")
    train(CONFIG, cache, disk / "r", device="cpu")

    assert_same(undisturbed, disk / "r")


def test_extend_allows_more_epochs_and_nothing_else(undisturbed, cache, tmp_path):
    """A finished run goes on to more epochs when asked to; any other change is refused."""
    run_dir = tmp_path / "r"
    shutil.copytree(undisturbed, run_dir)
    more = CONFIG.with_overrides({"epochs": 5})

    with pytest.raises(RunError, match=r"config\.epochs: 4 there, 5 now.*--extend"):
        train(more, cache, run_dir, device="cpu")
    with pytest.raises(RunError, match=r"config\.seed: 0 there, 1 now"):
        train(more.with_overrides({"seed": 1}), cache, run_dir, device="cpu", extend=True)
    with pytest.raises(RunError, match=r"config\.epochs: 4 there, 3 now"):
        train(CONFIG.with_overrides({"epochs": 3}), cache, run_dir, device="cpu", extend=True)
    result = train(more, cache, run_dir, device="cpu", extend=True)

    assert 5 == result.epochs
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    assert lines[:4] == (undisturbed / "metrics.jsonl").read_text().splitlines()


def test_another_dataset_is_refused(undisturbed, cache, folder, tmp_path):
    """A run resumed with other photos or classes names both differences."""
    photos = folder({"train/a": 12, "train/b": 12, "val/a": 1, "val/b": 1})
    other = prepare(photos, 32, cache_root=tmp_path / "cache")

    with pytest.raises(RunError, match=r"dataset_hash: .*labels: "):
        train(CONFIG, other, undisturbed, device="cpu")


@pytest.mark.parametrize(
    "text",
    ["[]", "{}", "3", '{"config": 3, "dataset_hash": ""}', '{"architecture": "resnet18"}', "{"],
)
def test_a_file_that_tells_of_no_run_is_named(cache, tmp_path, text):
    """Damaged, or another program's `config.json`: one sentence, and nothing is written over it."""
    (tmp_path / "config.json").write_text(text)

    with pytest.raises(RunError, match=r"config\.json is damaged"):
        train(CONFIG, cache, tmp_path, device="cpu")
    assert text == (tmp_path / "config.json").read_text()
