"""Recipes on a GPU: larger batches, and what goes with them, in the run's own settings."""

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from training.cli.train import train
from training.distributed.world import ALONE
from training.recipes import in_large_batches, recipe

SMALL = {"epochs": 1, "image_size": 32, "threads": 1, "run": "r"}


@pytest.mark.parametrize(
    ("photos", "batch"), [(33_593, 512), (32_768, 512), (32_767, 256), (8_192, 128), (2_610, 32)]
)
def test_a_large_batch_leaves_64_steps_an_epoch(photos, batch):
    """The rate grows with the batch, and the average spans as many epochs; nothing else changes."""
    plain = recipe("scratch")

    large = in_large_batches(plain, photos)

    more = batch / 32
    assert batch == large.batch_size
    assert plain.optimizer.lr * more == pytest.approx(large.optimizer.lr)
    assert plain.optimizer.ema**more == pytest.approx(large.optimizer.ema)
    assert (plain.scheduler, plain.augment) == (large.scheduler, large.augment)
    assert plain.optimizer.weight_decay == large.optimizer.weight_decay


def settings(folder: Path) -> tuple[int, float]:
    """Return the batch and the rate that a run was trained with."""
    config = json.loads((folder / "runs" / "r" / "config.json").read_text())["config"]
    return config["batch_size"], config["optimizer"]["lr"]


def test_large_batches_stand_in_the_run_and_the_same_command_goes_on(
    dishes, tmp_path, monkeypatch, capsys, thin
):
    """`--batch-size large` forces on a CPU what CUDA takes by itself, and a resume keeps it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("training.recipes._STEPS", 1 / 64)

    train(dishes, recipe="scratch", batch_size="large", **SMALL)
    assert "512 photos with optimizer.lr 0.8" in capsys.readouterr().err
    assert (512, pytest.approx(0.8)) == settings(tmp_path)
    train(dishes, recipe="scratch", batch_size="large", extend=True, **{**SMALL, "epochs": 2})
    assert (512, pytest.approx(0.8)) == settings(tmp_path)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 512),
        ({"batch_size": "32"}, 32),
        ({"recipe": "baseline"}, 32),
        ({"setting": ["optimizer.lr=0.01"]}, 32),
    ],
)
def test_cuda_takes_large_batches_unless_they_are_chosen(
    options, expected, dishes, tmp_path, monkeypatch
):
    """By itself only for recipes whose batch and rate nobody set."""
    taken = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("training.recipes._STEPS", 1 / 64)
    monkeypatch.setattr("training.model.device.device_for", lambda *_: torch.device("cuda"))

    def begin(config, *_, **__):
        taken.append(config.batch_size)
        raise KeyboardInterrupt

    monkeypatch.setattr("training.loop.trainer.train", begin)
    monkeypatch.setattr("training.distributed.world.joined", lambda **_: nullcontext(ALONE))
    with pytest.raises(KeyboardInterrupt):
        train(dishes, **{**SMALL, **options})
    assert [expected] == taken
