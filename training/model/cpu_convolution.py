"""Convolutions with many weights over few places, as matrix products: for training on a CPU.

Before each pass oneDNN reorders the weights of a convolution, and after it their gradient. In the
last layers of small photos, a batch has few places for that many weights, and reordering is most of
the work. Channels-last weights are a matrix as they lie in memory, so products need no reordering
(docs/notes/benchmarks.md has the gain).

Shapes: N batch, C channels in, O out, K side of the kernel, P places: N x height x width, out.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_MOST_PLACES = {torch.float32: 2, torch.bfloat16: 5}
"""Places for each channel out up to which products were measured to be faster. Fixed rather than
timed at start: a resumed run must compute exactly what the killed one would have."""


class MatmulConv2d(nn.Conv2d):
    """torch's convolution, but in training over few places a product; equal but for rounding.

    For square kernels without bias, groups or dilation, as ResNet has.
    """

    @classmethod
    def like(cls, convolution: nn.Conv2d) -> "MatmulConv2d":
        """Return one in the place of a convolution, with the very same weight."""
        # On no device: no memory is taken, and no random numbers, for weights that are replaced.
        made = cls(
            convolution.in_channels, convolution.out_channels, convolution.kernel_size,  # type: ignore[arg-type]
            convolution.stride, convolution.padding, bias=False, device="meta",  # type: ignore[arg-type]
        )  # fmt: skip
        made.weight = convolution.weight
        return made.train(convolution.training)

    def forward(self, input: Tensor) -> Tensor:
        """Convolve (N, C, height, width)."""
        dtype = input.dtype
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
        height, width = (_side_out(self, side) for side in input.shape[2:])
        most = _MOST_PLACES.get(dtype, 0) * self.out_channels
        if not self.training or len(input) * height * width > most:
            return super().forward(input)
        output: Tensor = _Product.apply(
            input.to(dtype), self.weight.to(dtype), self.stride[0], int(self.padding[0])
        )
        return output


def use_matmul_convolutions(model: nn.Module) -> None:
    """Replace the convolutions of a model by `MatmulConv2d`; parameters and names stay the same."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Conv2d:
                setattr(parent, name, MatmulConv2d.like(child))


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        side = weight.shape[2]
        padded = F.pad(input.permute(0, 2, 3, 1), (0, 0, *(padding, padding) * 2))
        windows = padded.unfold(1, side, stride).unfold(2, side, stride)
        ctx.places, ctx.padded = windows.shape[:3], padded.shape
        ctx.stride, ctx.padding, ctx.kernel = stride, padding, weight.shape
        # [P, K x K x C], in the memory order of the weights.
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


def _side_out(convolution: nn.Conv2d, side: int) -> int:
    """Return the height or width of the output for that of the input."""
    padding = int(convolution.padding[0])
    return (side + 2 * padding - convolution.kernel_size[0]) // convolution.stride[0] + 1
