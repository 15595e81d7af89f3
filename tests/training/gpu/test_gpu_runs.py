"""Whole runs on a CUDA device: resumed, compiled, validated, and never waiting for the device."""

import json

import numpy as np
import pytest
import torch

from tests.training.gpu.steps import CUDA, EVERYTHING, ended
from training.config import TrainConfig
from training.data.augment_parameters import sample_parameters
from training.data.loader import loader_for
from training.data.prepare import prepare
from training.distributed.world import ALONE
from training.errors import DivergedError, StoppedError
from training.loop.batch_finder import find_micro_batch
from training.loop.learner import Learner, StepData
from training.loop.run import Run
from training.loop.trainer import train
from training.runs import checkpoint

pytestmark = [
    pytest.mark.gpu,
    # Drivers and compilers warn of much that is no fault of a test.
    pytest.mark.filterwarnings("default"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

ALL_ON = {"optimizer.name": "adamw", "optimizer.ema": 0.9}


# The first epoch at 32 px, the second at 64, each with gradients that are clipped.
GROWING = {"image_size": 64, "start_scale": 0.5, "optimizer.clip_norm": 1.0}


ALL_ON |= {f"augment.{name}": value for name, value in EVERYTHING.items()}


@pytest.mark.parametrize(
    ("changes", "placement"),
    [
        ({}, "resident"),
        ({}, "pinned"),
        ({"compile": "on"}, "resident"),
        (ALL_ON, "resident"),
        (ALL_ON, "pinned"),
        ({"compile": "graphs", **GROWING}, "resident"),
        ({"compile": "graphs", **GROWING, "micro_batch_size": 8}, "pinned"),
    ],
    ids=[
        "plain",
        "plain-pinned",
        "compiled",
        "everything",
        "everything-pinned",
        "graphs",
        "graphs-in-parts",
    ],
)
def test_a_resumed_run_is_exact(dishes, cache, tmp_path, changes, placement):
    """Deterministic and stopped in the middle of an epoch: the very bits of one never stopped."""
    config = TrainConfig(
        image_size=32, epochs=2, batch_size=16, compile="off", checkpoint_every_steps=2
    ).with_overrides(changes)
    asked = iter(range(100))
    if config.image_size != 32:
        cache = prepare(dishes, config.image_size, cache_root=tmp_path / "cache")
    train(config, cache, tmp_path / "one", device="cuda", placement=placement)
    with pytest.raises(StoppedError):
        train(config, cache, tmp_path / "two", device="cuda", placement=placement,
              should_stop=lambda: next(asked) >= 4)  # fmt: skip
    train(config, cache, tmp_path / "two", device="cuda", placement=placement)

    one, two = ended(tmp_path / "one"), ended(tmp_path / "two")
    assert [] == [name for name in one if not torch.equal(one[name], two[name])]


def test_a_short_run_is_not_compiled_by_itself(cache, tmp_path, capsys):
    """It says so first, and the choice stands in the run, which goes on with it."""
    config = TrainConfig(image_size=32, epochs=1, batch_size=16)

    train(config, cache, tmp_path / "r", device="cuda")

    assert "compile: off, since steps of 32 px take some 0 s" in capsys.readouterr().err
    about = json.loads((tmp_path / "r" / "config.json").read_text())
    assert ("auto", "off") == (about["config"]["compile"], about["computing"]["compiled"])


@pytest.mark.parametrize("compiled", ["off", "graphs"])
def test_a_loss_that_is_not_finite_stops_a_run(cache, tmp_path, compiled):
    """Nobody waits for each loss, and still the first bad step is named, and nothing bad saved."""
    config = TrainConfig(
        image_size=32, epochs=3, batch_size=16, compile=compiled, checkpoint_every_steps=2
    ).with_overrides({"optimizer.lr": 1e30, "scheduler.name": "none"})

    with pytest.raises(DivergedError, match=r"not finite at step \d+ .*learning rate 1e\+30"):
        train(config, cache, tmp_path / "r", device="cuda")

    saved = list((tmp_path / "r" / "checkpoints").glob("step-*"))
    assert all(checkpoint.all_finite(checkpoint.load(path)[0]) for path in saved)


@pytest.mark.parametrize(
    ("changes", "placement"),
    [
        ({}, "resident"),
        (ALL_ON, "resident"),
        ({"optimizer.clip_norm": 1.0, "micro_batch_size": 8}, "resident"),
        ({"compile": "on"}, "resident"),
        ({"compile": "graphs"}, "resident"),
        ({}, "pinned"),
    ],
    ids=["plain", "everything", "clipped-in-parts", "compiled", "graphs", "pinned"],
)
def test_nothing_waits_for_the_device_within_an_epoch(
    cache, tmp_path, monkeypatch, changes, placement
):
    """Whatever makes the host wait for the device is an error from the 1st step to the last."""
    config = TrainConfig(image_size=32, epochs=3, batch_size=8, compile="off", threads=1)
    run_steps, update = Run.train_epoch, Learner.update_average
    epochs, steps = [], []

    def strictly(run: Run) -> None:
        epochs.append(run.epoch)
        # The 1st epoch warms up: it compiles, records graphs and finds kernels.
        if len(epochs) > 1:
            torch.cuda.set_sync_debug_mode("error")
        try:
            run_steps(run)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def counted(learner: Learner, step: int) -> None:
        update(learner, step)
        steps.append(step)
        if (step + 1) % per_epoch == 0:
            # The end: the loss is read, which is to wait.
            torch.cuda.set_sync_debug_mode("default")

    per_epoch = len(cache.splits["train"].targets) // config.batch_size
    monkeypatch.setattr(Run, "train_epoch", strictly)
    monkeypatch.setattr(Learner, "update_average", counted)
    train(config.with_overrides(changes), cache, tmp_path / "r", device="cuda", placement=placement)

    assert [0, 1, 2] == epochs
    assert list(range(3 * per_epoch)) == steps


def test_waiting_for_the_device_is_noticed():
    """Else the test above could not fail."""
    one = torch.ones(1, device=CUDA)
    torch.cuda.set_sync_debug_mode("error")
    try:
        with pytest.raises(RuntimeError, match="synchroniz"):
            one.item()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_validation_is_that_of_a_cpu(cache):
    """The logits of a model agree with a CPU's to fp32's rounding, cuDNN in use."""
    config = TrainConfig(image_size=32, batch_size=16, compile="off")
    ours, theirs = (
        Learner(config, 3, device).evaluate(loader_for(cache.splits["val"], device))
        for device in (torch.device("cpu"), CUDA)
    )

    assert np.allclose(ours.logits, theirs.logits, atol=1e-3)
    assert torch.backends.cudnn.enabled


def test_the_largest_batch_that_fits_is_found(cache):
    """With little memory a huge batch does not fit; `auto` finds one that does."""
    _, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction(min(1.5 * 2**30 / total, 1.0))
    try:
        config = TrainConfig(image_size=32, batch_size=2**14, compile="off")
        found = find_micro_batch(config, cache, "cuda", ALONE)
        learner = Learner(config, 3, CUDA)
        data = StepData(
            torch.zeros(2**14, 37, 37, 3, dtype=torch.uint8, device=CUDA),
            torch.zeros(2**14, dtype=torch.int64, device=CUDA),
            sample_parameters(2**14, config.augment, seed=0, step=0),
            size=32,
        )
        with pytest.raises(torch.OutOfMemoryError):
            learner.step(data, lr=0.1)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)

    assert 2 <= found.micro_batch_size < 2**14
