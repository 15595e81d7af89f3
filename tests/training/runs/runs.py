"""Small runs by the command line, and how two of them are compared."""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from training.runs import checkpoint

SETTINGS = {"epochs": 3, "image_size": 32, "batch_size": 12, "checkpoint_every_steps": 3,
            "threads": 1}  # fmt: skip


OF_THE_CLOCK = {"photos_per_s", "train_s", "data_wait_s", "eval_s", "save_s"}


def command(photos: Path, home: Path, *more: str) -> list[str]:
    """Return the command line of a small run in `home`."""
    return [
        sys.executable, "-m", "training", str(photos), "--run", "r", "--epochs", "3",
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
