"""A stop is obeyed at once, in whatever phase of a run it comes."""

import json

import numpy as np
import pytest
import torch

from tests.training.runs.runs import SETTINGS, assert_same
from training.config import TrainConfig
from training.data.cache import Split
from training.data.loader import loader_for
from training.data.prepare import prepare
from training.errors import StoppedError
from training.loop.learner import Learner
from training.loop.trainer import train
from training.recipes import scratch

pytestmark = pytest.mark.usefixtures("thin")


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
    images = np.zeros((65, 256, 256, 3), np.uint8)
    split = Split(images, np.arange(65) % 3, ("",) * 65)
    config = TrainConfig(image_size=224, flip_average=flip_average)
    learner = Learner(config, 3, torch.device("cpu"))
    asked = []

    found = learner.evaluate(loader_for(split, learner.device), lambda: asked.append(1))

    assert 65 == len(found.targets)
    assert -(-65 // most) == len(asked)
