"""Convolutions over few places with many weights, as matrix products: for training on a CPU.

oneDNN brings the weights of a convolution into an order of its own before each pass, and their
gradient out of it. Where a batch has few places for that many weights, as in the last layers of
small photos, this is most of the work. Weights with the channels innermost are a matrix as they
lie: then products need no order of their own (docs/notes/benchmarks.md says what is gained).

Shapes: N batch, C channels in, O out, K side of the kernel, P places: N x height x width, out.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_FEW = {torch.float32: 2, torch.bfloat16: 5}
"""Places for each channel out up to which products were the faster, measured. Shapes decide and not
a race: a resumed run must compute what the killed one would have."""


class Convolution(nn.Conv2d):
    """torch's convolution; while it learns from few places, a product, the same but for rounding.

    For square kernels without bias, groups or dilation, as ResNet has.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Convolve (N, C, height, width)."""
        dtype = input.dtype
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
        height, width = (_after(self, side) for side in input.shape[2:])
        few = _FEW.get(dtype, 0) * self.out_channels
        if not self.training or len(input) * height * width > few:
            return super().forward(input)
        found: Tensor = _Product.apply(
            input.to(dtype), self.weight.to(dtype), self.stride[0], int(self.padding[0])
        )
        return found


def use_products(model: nn.Module) -> None:
    """Let the convolutions of a model choose products; names and weights stay what they are."""
    for module in model.modules():
        if type(module) is nn.Conv2d:
            module.__class__ = Convolution


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        side = weight.shape[2]
        padded = F.pad(input.permute(0, 2, 3, 1), (0, 0, *(padding, padding) * 2))
        windows = padded.unfold(1, side, stride).unfold(2, side, stride)
        ctx.places, ctx.padded = windows.shape[:3], padded.shape
        ctx.stride, ctx.padding, ctx.kernel = stride, padding, weight.shape
        # [P, K x K x C], in the order in which the weights lie.
        columns = windows.permute(0, 1, 2, 4, 5, 3).reshape(-1, weight[0].numel())
        matrix = weight.permute(0, 2, 3, 1).reshape(len(weight), -1)
        ctx.save_for_backward(columns, matrix)
        return (columns @ matrix.t()).view(*ctx.places, -1).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        columns, matrix = ctx.saved_tensors
        outwards = gradients[0].permute(0, 2, 3, 1).reshape(-1, len(matrix))
        num_out, num_in, side, _ = ctx.kernel
        of_weight = (outwards.t() @ columns).view(num_out, side, side, num_in).permute(0, 3, 1, 2)
        of_input = None
        if ctx.needs_input_grad[0]:
            parts = (outwards @ matrix).view(*ctx.places, side, side, num_in)
            padded = parts.new_zeros(ctx.padded)
            for row, column, rows, across in _taps(ctx):
                padded[:, rows, across] += parts[:, :, :, row, column]
            inner = slice(ctx.padding, -ctx.padding or None)
            of_input = padded[:, inner, inner].permute(0, 3, 1, 2)
        return of_input, of_weight, None, None


def _taps(ctx: Any) -> Iterator[tuple[int, int, slice, slice]]:
    """Yield each position in the kernel, and the rows and columns of the input that it sees."""
    _, height, width = ctx.places
    side, stride = ctx.kernel[2], ctx.stride
    for row in range(side):
        for column in range(side):
            yield (
                row,
                column,
                slice(row, row + stride * height, stride),
                slice(column, column + stride * width, stride),
            )


def _after(convolution: nn.Conv2d, side: int) -> int:
    """Return the side of what comes out."""
    padding = int(convolution.padding[0])
    return (side + 2 * padding - convolution.kernel_size[0]) // convolution.stride[0] + 1
