"""Runs in real processes: killed, stopped, locked, resumed."""

import fcntl
import json
import shutil
import signal
import subprocess
import time

import pytest

from tests.paths import ROOT
from tests.training.runs.runs import SETTINGS, assert_same, begin, command, metrics, wait_for
from training.config import TrainConfig
from training.data.prepare import prepare
from training.errors import RunError
from training.loop import run
from training.loop.trainer import train
from training.recipes import scratch

pytestmark = pytest.mark.usefixtures("thin")


def test_a_run_writes_what_scripts_rely_on(finished):
    """A line per epoch with the promised names; the last two checkpoints and the best are kept."""
    run_dir = finished / "runs" / "r"

    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]

    names = {"epoch", "train_loss", "val_loss", "val_top1", "learning_rate", "photos_per_s"}
    names |= {"train_s", "data_wait_s", "eval_s", "save_s"}
    assert [1, 2, 3] == [line["epoch"] for line in lines]
    assert all(names <= line.keys() and line["photos_per_s"] > 0 for line in lines)
    assert all(line["train_s"] > line["data_wait_s"] >= 0 for line in lines)
    assert all(line["eval_s"] > 0 and line["save_s"] > 0 for line in lines)
    kept = sorted(path.name for path in (run_dir / "checkpoints").iterdir())
    assert ["best.safetensors", "step-00000011.safetensors", "step-00000012.safetensors"] == kept
    result = json.loads((run_dir / "result.json").read_text())
    best = max(lines, key=lambda line: (line["val_top1"], -line["val_loss"]))
    assert (best["epoch"], best["val_top1"]) == (result["best_epoch"], result["val_top1"])
    assert 0 <= result["test_top1"] <= 1


def test_a_run_killed_and_stopped_ends_as_one_that_nobody_disturbed(finished, dishes, tmp_path):
    """SIGKILL, SIGTERM, and the same command each time: weights and metrics are bit-identical.

    `test_reliability.py` kills at many moments; here it is the command line that goes on.
    """
    shutil.copytree(finished / "cache", tmp_path / "cache")
    process = begin(dishes, tmp_path)
    wait_for(5, tmp_path, process)
    process.kill()
    process.join()
    assert -signal.SIGKILL == process.exitcode

    process = begin(dishes, tmp_path)
    wait_for(8, tmp_path, process)
    process.terminate()
    process.join()
    assert 75 == process.exitcode
    assert "the same command goes on" in (tmp_path / "said").read_text().splitlines()[-1]
    assert not (tmp_path / "runs" / "r" / "result.json").exists()

    process = begin(dishes, tmp_path)
    process.join()

    assert 0 == process.exitcode
    assert_same(finished / "runs" / "r", tmp_path / "runs" / "r")


def test_extend_is_asked_for_on_the_command_line(finished, dishes, tmp_path):
    """More epochs are refused without it; with it, they follow those that were there."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    ended = []
    for more in (["--epochs", "4"], ["--epochs", "4", "--extend"]):
        process = begin(dishes, tmp_path, *more)
        process.join()
        ended.append((process.exitcode, (tmp_path / "said").read_text()))

    assert [1, 0] == [code for code, _ in ended]
    assert "--extend allows more epochs" in ended[0][1]
    before, after = metrics(finished / "runs" / "r"), metrics(tmp_path / "runs" / "r")
    assert 4 == len(after)
    assert before == after[:3]


def test_the_time_of_steps_is_not_that_of_saving(dishes, tmp_path, monkeypatch):
    """What a save holds up is seen in `save_s`, and does not make photos/s look worse."""
    cache = prepare(dishes, 32, cache_root=tmp_path / "cache")
    copied, now_s = run.copied, 0.0

    def slowly(tensors):
        nonlocal now_s
        now_s += 10
        return copied(tensors)

    # What a thread writes meanwhile holds nothing up.
    monkeypatch.setattr(run, "copied", slowly)
    monkeypatch.setattr(time, "perf_counter", lambda: now_s)
    train(TrainConfig(**{**SETTINGS, "epochs": 2, "threads": 1}), cache, tmp_path / "r")

    lines = [json.loads(x) for x in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    assert [(0, 10), (0, 20)] == [(line["train_s"], line["save_s"]) for line in lines]


def test_a_run_in_use_is_refused(finished, dishes):
    """A second process on a run directory is refused while the first lives."""
    cache = prepare(dishes, 32, cache_root=finished / "cache")
    with (finished / "runs" / "r" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RunError, match="another process trains"):
            train(TrainConfig(**SETTINGS), cache, finished / "runs" / "r")


def test_another_config_is_refused(finished, dishes):
    """The differences are listed, each with both values."""
    cache = prepare(dishes, 32, cache_root=finished / "cache")
    with pytest.raises(RunError, match=r"config\.batch_size: 12 there, 6 now"):
        train(TrainConfig(**{**SETTINGS, "batch_size": 6}), cache, finished / "runs" / "r")


def test_a_loss_that_is_not_finite_stops_the_run(dishes, tmp_path):
    """The error names the step and the learning rate, and what to try."""
    cache = prepare(dishes, 32, cache_root=tmp_path / "cache")
    config = TrainConfig(**SETTINGS).with_overrides(
        {"optimizer.lr": 1e30, "scheduler.name": "none"}
    )
    with pytest.raises(RunError, match=r"step \d+ .*learning rate 1e\+30.*optimizer\.lr=1e\+29"):
        train(config, cache, tmp_path / "run")


def test_an_unknown_setting_is_one_line_and_exit_code_1(dishes, tmp_path):
    """Errors for people have no traceback."""
    done = subprocess.run(
        command(dishes, tmp_path, "--set", "lr=1"), cwd=ROOT, capture_output=True, text=True
    )

    assert 1 == done.returncode
    assert done.stderr.startswith("error: no setting 'lr'")
    assert 1 == len(done.stderr.splitlines())


def test_what_is_left_of_a_damaged_run_is_kept(finished, dishes, tmp_path):
    """Given twice, the command neither removes damaged checkpoints nor begins anew over them."""
    cache = prepare(dishes, 32, cache_root=finished / "cache")
    shutil.copytree(finished / "runs" / "r", tmp_path / "r")
    for path in (tmp_path / "r" / "checkpoints").glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])

    for _ in range(2):
        with pytest.raises(RunError, match=r"every checkpoint .* is damaged"):
            train(scratch().with_overrides({**SETTINGS, "threads": 1}), cache, tmp_path / "r")


def test_a_folder_that_cannot_be_written_is_an_error_for_people(finished, dishes, tmp_path):
    """An OSError beside the checkpoints is one sentence too, not a traceback."""
    cache = prepare(dishes, 32, cache_root=finished / "cache")
    shutil.copytree(finished / "runs" / "r", tmp_path / "r")
    (tmp_path / "r" / "metrics.jsonl").unlink()
    (tmp_path / "r" / "metrics.jsonl").mkdir()

    with pytest.raises(RunError, match="cannot be written"):
        train(scratch().with_overrides({**SETTINGS, "threads": 1}), cache, tmp_path / "r")
