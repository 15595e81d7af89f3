"""Small runs by the command line, and how two of them are compared."""

import json
import multiprocessing
import sys
import time
from pathlib import Path
from unittest.mock import patch

import torch
from safetensors.torch import load_file

import terminal
from tests.thin import thin_network
from tests.training.runs.disturbed import PROCESSES
from training.__main__ import main
from training.runs import checkpoint

SETTINGS = {"epochs": 3, "image_size": 32, "batch_size": 12, "checkpoint_every_steps": 3,
            "threads": 1}  # fmt: skip


OF_THE_CLOCK = {"photos_per_s", "train_s", "data_wait_s", "eval_s", "save_s"}


def command(photos: Path, home: Path, *more: str) -> list[str]:
    """Return the command line of a small run in `home`."""
    return [sys.executable, "-m", "training", *arguments(photos, home, *more)]


def arguments(photos: Path, home: Path, *more: str) -> list[str]:
    """Return what follows `hansang train` for a small run in `home`."""
    return [
        str(photos), "--run", "r", "--epochs", "3",
        "--image-size", "32", "--set", "batch_size=12", "--set", "checkpoint_every_steps=3",
        "--threads", "1", "--runs-dir", str(home / "runs"), "--cache-dir", str(home / "cache"),
        *more,
    ]  # fmt: skip


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


def as_command(words: list[str], said: Path) -> None:
    """Be `python -m training` with these words: it tells of each step, and writes no report."""
    terminal._PLAIN_INTERVAL_S = 0
    sys.argv, sys.stderr = ["hansang train", *words], said.open("w", 1)
    with thin_network(), patch("training.reports.tracking.reported", lambda _run_dir: ""):
        main()


def begin(photos: Path, home: Path, *more: str) -> multiprocessing.Process:
    """Begin `command` in a process of its own, which need not import torch first."""
    words = arguments(photos, home, *more)
    process = PROCESSES.Process(target=as_command, args=(words, home / "said"))
    (home / "said").unlink(missing_ok=True)
    process.start()
    return process


def wait_for(step: int, home: Path, process: multiprocessing.Process) -> None:
    """Return when the process has said that so many steps are done."""
    said = home / "said"
    while not (said.exists() and f"train: {step}/" in said.read_text()):
        assert process.is_alive()
        time.sleep(0.005)
