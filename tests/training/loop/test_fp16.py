"""Steps in fp16: the loss is scaled, what overflows is left out, and a resume is exact."""

from pathlib import Path

import pytest
import torch

from training.config import TrainConfig
from training.data.augment_parameters import sample_parameters
from training.data.prepare import prepare
from training.errors import StoppedError
from training.loop.learner import Learner, StepData
from training.loop.state import restore, tensors_of
from training.loop.trainer import train
from training.model import device as devices
from training.runs import checkpoint

CPU = torch.device("cpu")
IMAGES = torch.randint(
    0, 256, (8, 37, 37, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)
TARGETS = torch.arange(8) % 3


def _learner(**changes: object) -> Learner:
    config = TrainConfig(image_size=32, batch_size=8).with_overrides(changes)
    learner = Learner(config, 3, CPU)
    if learner.precision == "fp16":
        # From where none of the first steps overflows.
        learner.scaler = torch.amp.GradScaler("cpu", init_scale=4096.0)
    return learner


def _end(run: Path) -> dict[str, torch.Tensor]:
    folder = run / "checkpoints"
    return checkpoint.load(folder / max(each.name for each in folder.glob("step-*")))[0]


def _step(learner: Learner, step: int = 0) -> float:
    parameters = sample_parameters(8, learner.config.augment, seed=0, step=step)
    return learner.step(StepData(IMAGES, TARGETS, parameters, size=32), lr=0.005).item()


@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
def test_a_step_is_near_that_in_fp32(clip_norm):
    """The scale has left the gradients again, and clipping sees them without it."""
    ends = []
    for precision in ("fp32", "fp16"):
        learner = _learner(precision=precision, **{"optimizer.clip_norm": clip_norm})
        loss = _step(learner)
        ends.append((loss, learner.model.fc.weight.detach().clone()))

    (loss, weights), (half, others) = ends
    assert half == pytest.approx(loss, rel=1e-2)
    assert 0 < (weights - others).abs().max() < 2e-3


@pytest.mark.parametrize("steps", [0, 1])
def test_a_step_that_overflows_is_left_out(steps):
    """The weights stay, and the scale is halved; the next step is sound, be it the first."""
    learner = _learner(precision="fp16")
    for step in range(steps):
        _step(learner, step)
    before = learner.model.fc.weight.detach().clone()
    hook = learner.model.fc.bias.register_hook(lambda gradient: gradient * float("inf"))

    _step(learner, 1)

    assert torch.equal(before, learner.model.fc.weight)
    assert 2048.0 == learner.scaler.get_scale()
    hook.remove()
    _step(learner, 2)
    assert 0 < (before - learner.model.fc.weight).abs().max() < 0.1
    assert all(value.isfinite().all() for value in learner.model.state_dict().values())


def test_the_scale_is_part_of_the_state():
    """A learner that takes the state over has the scale, and how long it has held."""
    learner, other = _learner(precision="fp16"), _learner(precision="fp16")
    _step(learner)
    learner.scaler.update(512.0)

    restore(other, tensors_of(learner))

    assert learner.scaler.state_dict() == other.scaler.state_dict()
    assert 512.0 == other.scaler.get_scale()
    assert not [name for name in tensors_of(_learner(precision="fp32")) if "scaler" in name]


@pytest.mark.usefixtures("thin")
def test_a_resumed_run_is_exact(dishes, tmp_path):
    """Stopped in its first epoch, the tensors are those of a run that was never stopped."""
    cache = prepare(dishes, 32, cache_root=tmp_path / "cache")
    config = TrainConfig(image_size=32, batch_size=8, epochs=2, precision="fp16", threads=1)
    train(config, cache, tmp_path / "whole")
    asked = iter(range(100))
    with pytest.raises(StoppedError):
        train(config, cache, tmp_path / "stopped", should_stop=lambda: next(asked) >= 2)
    train(config, cache, tmp_path / "stopped")

    whole, stopped = (_end(tmp_path / name) for name in ("whole", "stopped"))
    assert "scaler.scale" in whole
    assert all(torch.equal(value, stopped[name]) for name, value in whole.items())


@pytest.mark.parametrize(
    ("bf16", "capability", "expected"),
    [(True, (8, 0), "bf16"), (False, (7, 5), "fp16"), (False, (6, 1), "fp32")],
)
def test_auto_is_what_a_gpu_is_fast_with(monkeypatch, bf16, capability, expected):
    """Ampere takes bf16, a T4 fp16, a P40 neither."""
    monkeypatch.setattr(devices, "has_bf16", lambda _: bf16)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)

    assert expected == devices.precision_of(TrainConfig(), torch.device("cuda"))
