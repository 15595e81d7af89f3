"""Convolutions computed as products: torch's answers and gradients, where they are the faster."""

import copy

import pytest
import torch
from torch import nn

from training.model import cpu_convolution
from training.model.cpu_convolution import MatmulConv2d, use_matmul_convolutions
from training.model.resnet import build

SHAPES = [(3, 1, 1, 5), (3, 2, 1, 5), (3, 2, 1, 4), (1, 2, 0, 4), (7, 2, 3, 9)]


def both(kernel: int, stride: int, padding: int) -> tuple[nn.Conv2d, nn.Conv2d]:
    """Return torch's convolution and ours, of the same weights."""
    torch.manual_seed(0)
    plain = nn.Conv2d(6, 64, kernel, stride, padding, bias=False)
    plain = plain.to(memory_format=torch.channels_last)
    ours = nn.Sequential(copy.deepcopy(plain))
    use_matmul_convolutions(ours)
    return plain, ours[0]


def answers(layer: nn.Conv2d, inputs: torch.Tensor) -> list[torch.Tensor]:
    """Return what comes out, and the gradients of what came in and of the weights."""
    inputs = inputs.clone(memory_format=torch.channels_last).requires_grad_()
    outputs = layer(inputs)
    torch.manual_seed(1)
    (outputs * torch.randn(outputs.shape).to(outputs)).sum().backward()
    return [outputs, inputs.grad, layer.weight.grad]


@pytest.fixture
def products(monkeypatch) -> list[int]:
    """Counts how often a product was computed."""
    calls: list[int] = []
    apply = cpu_convolution._Product.apply

    def counted(*arguments):
        calls.append(1)
        return apply(*arguments)

    monkeypatch.setattr(cpu_convolution._Product, "apply", counted)
    return calls


@pytest.mark.parametrize(("kernel", "stride", "padding", "side"), SHAPES)
def test_a_product_gives_what_torch_gives(products, kernel, stride, padding, side):
    """Outputs and gradients agree within rounding, for each kind of convolution of the network."""
    plain, ours = both(kernel, stride, padding)
    inputs = torch.randn(3, 6, side, side)

    for expected, found in zip(answers(plain, inputs), answers(ours, inputs), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert len(products) == 1


def test_a_product_in_bf16_is_as_near_to_fp32_as_torchs_is(products):
    """Under autocast it computes and answers in bf16, and its weights' gradient is in fp32."""
    plain, ours = both(3, 1, 1)
    inputs = torch.randn(3, 6, 5, 5)
    exact = answers(plain, inputs)
    plain.weight.grad = None
    with torch.autocast("cpu", torch.bfloat16):
        torchs, found = answers(plain, inputs), answers(ours, inputs)

    assert [x.dtype for x in found] == [x.dtype for x in torchs]
    for a, b, c in zip(exact, torchs, found, strict=True):
        assert (c - a).abs().max() < 2 * (b - a).abs().max() + 1e-2 * a.abs().max()
    assert len(products) == 1


def test_many_places_and_evaluation_are_torchs(products):
    """What does not learn, or has many places, is what torch computes, to the last bit."""
    plain, ours = both(3, 1, 1)
    many = torch.randn(4, 6, 20, 20).contiguous(memory_format=torch.channels_last)

    assert torch.equal(plain(many), ours(many))
    assert torch.equal(plain(many[:1]), ours.eval()(many[:1]))
    assert not products


def test_the_network_keeps_its_names_and_weights(products):
    """A ResNet18 with products has the same state, and its last layers learn by products."""
    model = build(5, seed=0).to(memory_format=torch.channels_last)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    use_matmul_convolutions(model)

    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert isinstance(model.layer4[0].conv1, MatmulConv2d)
    model(torch.randn(8, 3, 64, 64).contiguous(memory_format=torch.channels_last))
    assert len(products) >= 5
    assert torch.equal(before["fc.weight"], model.fc.weight)
