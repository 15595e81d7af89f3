"""TrivialAugment, wide: one random operation of random strength for each photo (arXiv 2103.10158).

The CPU knows which photo gets which operation, so nothing waits for the device. Operations that
move pixels become affine maps, which join the crop's; the others change the rows that have them.

Shapes: B batch, S side of the model's square.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from training.data.augment_parameters import Column
from training.data.loader import to_device

_MOVES = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
_COLOURS = ("brightness", "contrast", "saturation", "sharpness", "posterize", "solarize",
            "autocontrast", "equalize")  # fmt: skip
OPERATIONS = ("identity", *_MOVES, *_COLOURS)


@dataclass(frozen=True, slots=True)
class Operations:
    """The operation of each photo of a batch, on the CPU."""

    operation: Tensor
    """[B], positions in `OPERATIONS`."""
    strength: Tensor
    """[B], 0 to 1, of 31 levels."""
    sign: Tensor
    """[B], -1 or 1."""

    def matrices(self) -> Tensor | None:
        """Return affine maps (B, 2, 3), output to input; None if no photo has an operation."""
        if not (self.operation > 0).any():
            return None
        maps = torch.eye(2, 3).repeat(len(self.operation), 1, 1)
        signed = self.strength * self.sign
        # torchvision's widths: shear 0.99, 32 of 224 pixels (the grid is 2 wide), 135 degrees.
        for name, row, column, reach in (
            ("shear_x", 0, 1, 0.99), ("shear_y", 1, 0, 0.99),
            ("translate_x", 0, 2, 64 / 224), ("translate_y", 1, 2, 64 / 224),
        ):  # fmt: skip
            has = self.operation == OPERATIONS.index(name)
            maps[has, row, column] = signed[has] * reach
        has = self.operation == OPERATIONS.index("rotate")
        angle = signed[has] * math.radians(135)
        maps[has, 0, 0] = maps[has, 1, 1] = angle.cos()
        maps[has, 0, 1], maps[has, 1, 0] = -angle.sin(), angle.sin()
        return maps

    def apply(self, pixels: Tensor) -> Tensor:
        """Return (B, 3, S, S) in 0..255 with the operations on colour applied."""
        for name in _COLOURS:
            rows = (self.operation == OPERATIONS.index(name)).nonzero()[:, 0]
            if not len(rows):
                continue
            index = to_device(pixels.device, rows)
            strength = to_device(pixels.device, (self.strength * self.sign)[rows])
            changed = _FUNCTIONS[name](pixels[index], strength[:, None, None, None])
            pixels = pixels.index_copy(0, index, changed.clamp(0, 255))
        return pixels


def choose(uniform: Tensor, probability: float, *, colours: bool = True) -> Operations:
    """Return the operations that uniform numbers (B, Column.COUNT) decide.

    A photo gets one with this probability, else the identity. Without `colours` it is one of those
    that move pixels.
    """
    first, count = (0, len(OPERATIONS)) if colours else (1, len(_MOVES))
    operation = first + (uniform[:, Column.OPERATION] * count).long().clamp(max=count - 1)
    operation = torch.where(uniform[:, Column.TRIVIAL_AUGMENT] < probability, operation, 0)
    strength = (uniform[:, Column.STRENGTH] * 31).floor().clamp(max=30) / 30
    return Operations(operation, strength, torch.where(uniform[:, Column.SIGN] < 0.5, -1.0, 1.0))


def grey(pixels: Tensor) -> Tensor:
    """Return the luma (ITU-R BT.601) of (B, 3, S, S), as (B, 1, S, S)."""
    luma: Tensor = 0.299 * pixels[:, :1] + 0.587 * pixels[:, 1:2] + 0.114 * pixels[:, 2:]
    return luma


def _blurred(pixels: Tensor) -> Tensor:
    kernel = torch.ones(3, 1, 3, 3, device=pixels.device) / 13
    kernel[:, :, 1, 1] = 5 / 13
    return F.conv2d(F.pad(pixels, (1, 1, 1, 1), "replicate"), kernel, groups=3)


def _posterized(pixels: Tensor, strength: Tensor) -> Tensor:
    step = 2 ** (6 * strength.abs()).round()
    return (pixels / step).floor() * step


def _autocontrasted(pixels: Tensor, strength: Tensor) -> Tensor:  # noqa: ARG001
    low, high = pixels.amin((2, 3), keepdim=True), pixels.amax((2, 3), keepdim=True)
    flat = high == low
    return torch.where(flat, pixels, (pixels - low) * 255 / torch.where(flat, 1.0, high - low))


def _equalized(pixels: Tensor, strength: Tensor) -> Tensor:  # noqa: ARG001
    """Spread each channel's levels so that their cumulative histogram is a straight line."""
    levels = pixels.round().long().clamp(0, 255).flatten(2)
    # Whole numbers: sums of floats on CUDA are not the same twice.
    counts = torch.zeros(*levels.shape[:2], 256, dtype=torch.int64, device=pixels.device)
    below = counts.scatter_add_(2, levels, torch.ones_like(levels)).cumsum(2)
    first = below.gather(2, (below > 0).int().argmax(2, keepdim=True))
    spread = (below - first) / (below[..., -1:] - first).clamp(min=1) * 255
    return spread.gather(2, levels).view_as(pixels)


_FUNCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "brightness": lambda x, s: x * (1 + 0.99 * s),
    "contrast": lambda x, s: torch.lerp(grey(x).mean((2, 3), keepdim=True), x, 1 + 0.99 * s),
    "saturation": lambda x, s: torch.lerp(grey(x), x, 1 + 0.99 * s),
    "sharpness": lambda x, s: torch.lerp(_blurred(x), x, 1 + 0.99 * s),
    "posterize": _posterized,
    "solarize": lambda x, s: torch.where(x >= 255 * (1 - s.abs()), 255 - x, x),
    "autocontrast": _autocontrasted,
    "equalize": _equalized,
}
