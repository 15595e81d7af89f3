"""Runs in real processes: killed, stopped, locked, resumed; and exported."""

import fcntl
import json
import multiprocessing
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import terminal
from tests.paths import ROOT
from training.__main__ import main
from training.config import TrainConfig
from training.data.cache import Split
from training.data.loader import loader_for
from training.data.prepare import prepare
from training.errors import ExportError, RunError, StoppedError
from training.export.onnx_export import check_parity, export, write_onnx
from training.loop.learner import Learner
from training.loop.trainer import train
from training.model.resnet import Served, build
from training.recipes import scratch
from training.runs import checkpoint

# Forked from a clean server that has imported torch: a real process, in milliseconds.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["training.loop.trainer", "training.data.prepare"])
SETTINGS = {"epochs": 3, "image_size": 32, "batch_size": 12, "checkpoint_every_steps": 3}
OF_THE_CLOCK = {"photos_per_s", "train_s", "data_wait_s", "eval_s", "save_s"}


def command(photos: Path, home: Path, *more: str) -> list[str]:
    """Return the command line of a small run in `home`."""
    return [
        sys.executable, "-m", "training", str(photos), "--run", "r", "--epochs", "3",
        "--image-size", "32", "--set", "batch_size=12", "--set", "checkpoint_every_steps=3",
        "--threads", "1", "--runs-dir", str(home / "runs"), "--cache-dir", str(home / "cache"),
        *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def finished(dishes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run that nobody disturbed; its home folder."""
    home = tmp_path_factory.mktemp("finished")
    subprocess.run(command(dishes, home), check=True, cwd=ROOT, capture_output=True)
    return home


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    """Return every tensor of the newest checkpoint, the optimizer's too."""
    return load_file(sorted((run_dir / "checkpoints").glob("step-*"))[-1])


def metrics(run_dir: Path) -> list[dict[str, float]]:
    """Return the epochs, without what depends on the clock."""
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [
        {key: value for key, value in json.loads(line).items() if key not in OF_THE_CLOCK}
        for line in lines
    ]


def assert_same(one: Path, other: Path) -> None:
    """Fail unless two runs ended bit for bit alike."""
    assert metrics(one) == metrics(other)
    expected, found = weights(one), weights(other)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    best = "checkpoints/" + checkpoint.BEST
    expected, found = load_file(one / best), load_file(other / best)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


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


def as_command(arguments: list[str], said: Path) -> None:
    """Be `python -m training` with these arguments, which tells of each step."""
    terminal._PLAIN_INTERVAL_S = 0
    sys.argv, sys.stderr = ["hansang train", *arguments], said.open("w", 1)
    main()


def begin(photos: Path, home: Path, *more: str) -> multiprocessing.Process:
    """Begin `command` in a process of its own, which need not import torch first."""
    arguments = command(photos, home, *more)[3:]
    process = PROCESSES.Process(target=as_command, args=(arguments, home / "said"))
    (home / "said").unlink(missing_ok=True)
    process.start()
    return process


def wait_for(step: int, home: Path, process: multiprocessing.Process) -> None:
    """Return when the process has said that so many steps are done."""
    said = home / "said"
    while not (said.exists() and f"train: {step}/" in said.read_text()):
        assert process.is_alive()
        time.sleep(0.005)


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
    """A slow disk is seen in `save_s`, and does not make photos/s look worse."""
    cache = prepare(dishes, 32, cache_root=tmp_path / "cache")
    save, now_s = checkpoint.save, 0.0

    def slowly(*arguments):
        nonlocal now_s
        now_s += 10
        save(*arguments)

    monkeypatch.setattr(checkpoint, "save", slowly)
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


def test_the_exported_best_epoch_passes_the_gate(finished, dishes, tmp_path):
    """Onnxruntime counts the run's own top-1 on every validation photo, at any batch."""
    import onnxruntime

    run_dir = finished / "runs" / "r"

    exported = export(run_dir, tmp_path / "model.onnx")

    result = json.loads((run_dir / "result.json").read_text())
    assert (result["val_top1"], result["best_epoch"]) == (exported.val_top1, exported.epoch)
    assert exported.max_difference < 1e-4
    assert ["model.onnx"] == [path.name for path in tmp_path.iterdir()]
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for number in (1, 3, 7):
        images = np.zeros((number, 32, 32, 3), np.uint8)
        (rows,) = session.run(None, {"images": images})
        assert (number, 3) == rows.shape
        assert np.allclose(rows.sum(1), 1)


def test_the_gate_refuses_another_model_and_names_a_photo(finished, dishes, tmp_path):
    """Two classes swapped in the exported file are found, and the photo is named."""
    split = prepare(dishes, 32, cache_root=finished / "cache").splits["val"]
    model = build(3, seed=1)
    served = Served(model).eval()
    with torch.no_grad():
        # Apart enough for every photo to have a winner.
        model.fc.weight.mul_(20)
    swapped = build(3, seed=1)
    swapped.load_state_dict(model.state_dict())
    with torch.no_grad():
        swapped.fc.weight.copy_(model.fc.weight.flip(0))
        swapped.fc.bias.copy_(model.fc.bias.flip(0))
    write_onnx(Served(swapped).eval(), 32, tmp_path / "wrong.onnx", {})

    with pytest.raises(ExportError, match=r"on val/.*\.jpg torch says class"):
        check_parity(served, tmp_path / "wrong.onnx", split)


def test_a_run_without_an_epoch_cannot_be_released(tmp_path):
    """A folder that is no finished run says what to do."""
    with pytest.raises(RunError, match="hansang train"):
        export(tmp_path, tmp_path / "model.onnx")


def test_a_stop_within_validation_is_heard_at_once(finished, dishes, tmp_path):
    """SIGTERM need not wait for the end of a long validation, and going on is exact."""
    cache = prepare(dishes, 32, cache_root=finished / "cache")
    steps_per_epoch = len(cache.splits["train"].targets) // SETTINGS["batch_size"]
    asked = 0

    def stop_in_validation() -> bool:
        nonlocal asked
        asked += 1
        return asked == steps_per_epoch + 1

    with pytest.raises(StoppedError):
        train(
            scratch().with_overrides({**SETTINGS, "threads": 1}),
            cache,
            tmp_path / "r",
            should_stop=stop_in_validation,
        )
    assert not (tmp_path / "r" / "metrics.jsonl").read_text()

    train(scratch().with_overrides({**SETTINGS, "threads": 1}), cache, tmp_path / "r")

    assert_same(finished / "runs" / "r", tmp_path / "r")
    for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines():
        assert json.loads(line)["photos_per_s"] > 0


def test_a_stop_while_the_result_is_measured_is_heard(finished, dishes, tmp_path):
    """After the last epoch nothing is left to save: the run ends there, and going on is exact."""
    cache = prepare(dishes, 32, cache_root=finished / "cache")
    run_dir = tmp_path / "r"

    def stop_in_the_end() -> bool:
        metrics = run_dir / "metrics.jsonl"
        return metrics.exists() and len(metrics.read_text().splitlines()) == SETTINGS["epochs"]

    config = scratch().with_overrides({**SETTINGS, "threads": 1})
    with pytest.raises(StoppedError, match="epoch 3, step 12"):
        train(config, cache, run_dir, should_stop=stop_in_the_end)
    assert not (run_dir / "result.json").exists()

    train(config, cache, run_dir)

    assert_same(finished / "runs" / "r", run_dir)


@pytest.mark.parametrize(("flip_average", "most"), [(False, 64), (True, 32)])
def test_a_validation_on_a_cpu_listens_every_few_seconds(flip_average, most):
    """Slow CPUs validate 15 photos of 224 px in a second: no more lie between two questions."""
    images = np.zeros((130, 256, 256, 3), np.uint8)
    split = Split(images, np.arange(130) % 3, ("",) * 130)
    config = TrainConfig(image_size=224, flip_average=flip_average)
    learner = Learner(config, 3, torch.device("cpu"))
    asked = []

    found = learner.evaluate(loader_for(split, learner.device), lambda: asked.append(1))

    assert 130 == len(found.targets)
    assert -(-130 // most) == len(asked)


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


def test_validation_computes_as_the_served_file_does(finished, dishes):
    """Whatever a run trains in, it validates in fp32: to the last bit the same loss."""
    split = prepare(dishes, 32, cache_root=finished / "cache").splits["val"]
    learners = [
        Learner(TrainConfig(**SETTINGS, precision=precision), 3, torch.device("cpu"))
        for precision in ("fp32", "bf16")
    ]

    fp32, bf16 = (learner.evaluate(loader_for(split, learner.device)).loss for learner in learners)

    assert fp32 == bf16


def test_a_reported_top1_that_the_file_has_not_is_refused(finished, dishes, tmp_path):
    """A best epoch whose metrics are not those of its weights is not released."""
    shutil.copytree(finished / "runs" / "r", tmp_path / "r")
    best = tmp_path / "r" / "checkpoints" / "best.safetensors"
    tensors, state = checkpoint.load(best)
    record = state["history"][-1]
    record["val_top1"] = 0.0 if record["val_top1"] else 1.0
    checkpoint.save(best, tensors, state)

    with pytest.raises(ExportError, match=r"reports .* validation photos right"):
        export(tmp_path / "r", tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()
