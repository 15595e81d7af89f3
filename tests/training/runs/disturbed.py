"""A small run that tests disturb, and the comparison with one that nobody disturbed."""

import json
import multiprocessing
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.thin import thin_network
from training.config import TrainConfig
from training.data.cache import DatasetCache
from training.loop.trainer import train
from training.runs import checkpoint

CONFIG = TrainConfig(
    epochs=4, image_size=32, batch_size=10, checkpoint_every_steps=2, threads=1
).with_overrides({"optimizer.ema": 0.9, "augment.trivial": 0.5, "augment.mixup": 0.2})


OF_THE_CLOCK = {"photos_per_s", "train_s", "data_wait_s", "eval_s", "save_s"}


# Forked from a clean server that has imported torch: a real process, in milliseconds.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["training.loop.trainer", "training.data.prepare", "training.cli.train"]
)


def go(cache: str, run_dir: str) -> None:
    """Train, or go on, as a process of its own."""
    train(CONFIG, DatasetCache.open(Path(cache)), Path(run_dir), device="cpu")


def go_thin(cache: str, run_dir: str) -> None:
    """Train, or go on, with the thin network."""
    with thin_network():
        go(cache, run_dir)


def assert_same(one: Path, other: Path) -> None:
    """Fail unless two runs ended bit for bit alike: weights, average, optimizer, metrics, best."""

    def metrics(run_dir: Path) -> list[dict[str, float]]:
        lines = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
        return [{k: v for k, v in line.items() if k not in OF_THE_CLOCK} for line in lines]

    assert metrics(one) == metrics(other)
    for name in (checkpoint.BEST, sorted(p.name for p in (one / "checkpoints").iterdir())[-1]):
        expected, found = (load_file(run / "checkpoints" / name) for run in (one, other))
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[key], found[key]) for key in expected)
    results = [json.loads((run / "result.json").read_text()) for run in (one, other)]
    for result in results:
        del result["run_dir"], result["photos_per_s"]
    assert results[0] == results[1]
