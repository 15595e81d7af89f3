"""A step of the optimizer: what it makes of weights whose channels are innermost."""

import copy

import pytest
import torch

from training.config import TrainConfig
from training.loop.optimizer import channels_last_as_contiguous, optimizer_for
from training.model.resnet import build

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_step_on_weights_as_they_lie_is_the_same_step(name):
    """Weights and state after three steps are those of plain steps, bit for bit, and lie alike."""
    config = TrainConfig().with_overrides({"optimizer.name": name})
    plain = build(3, seed=0).to(memory_format=torch.channels_last)
    ours = copy.deepcopy(plain)
    optimizers = [optimizer_for(config, model, CPU) for model in (plain, ours)]

    for seed in range(3):
        for model in (plain, ours):
            torch.manual_seed(seed)
            for parameter in model.parameters():
                parameter.grad = torch.randn_like(parameter)
        optimizers[0].step()
        with channels_last_as_contiguous(optimizers[1]):
            optimizers[1].step()

    for one, other in zip(plain.parameters(), ours.parameters(), strict=True):
        assert torch.equal(one, other)
        assert one.stride() == other.stride() == other.grad.stride()
        states = [optimizers[0].state[one], optimizers[1].state[other]]
        assert states[0].keys() == states[1].keys()
        for expected, found in zip(states[0].values(), states[1].values(), strict=True):
            assert torch.equal(expected, found)
            assert expected.stride() == found.stride()


def test_what_has_no_gradient_is_left_alone():
    """Frozen weights keep their values and their shape."""
    model = build(3, seed=0).to(memory_format=torch.channels_last)
    before = model.layer1[0].conv1.weight.clone()
    optimizer = optimizer_for(TrainConfig(), model, CPU)

    with channels_last_as_contiguous(optimizer):
        optimizer.step()

    assert torch.equal(before, model.layer1[0].conv1.weight)
