"""Augmentation: each photo's own random parameters, applied as batched operations on the device.

The parameters are drawn on the CPU from (seed, step) for the whole batch, then cut to the part
that a device computes: every device, every resumed run and every number of machines sees the
same photos. Each ingredient has its own columns, so one that is turned on leaves the others alone.

uint8 squares → turn, crop and flip in one resampling → colour → TrivialAugment → erasing → mixing

Shapes: B batch, C side of the cached square, S side of the model's square.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from service.pixels.preprocessing import resize_size
from training.config import AugmentConfig
from training.data import trivial_augment
from training.data.loader import onto
from training.data.normalisation import MEAN

_LOG_RATIO = math.log(4 / 3)
_COLUMNS = 20


@dataclass(frozen=True, slots=True)
class Draws:
    """The random parameters of a batch, on the CPU; cut as the batch is, or picked by row."""

    uniform: Tensor
    """[B, columns], from 0 to 1."""
    share: Tensor
    """[B], the part of a mixed photo that is its own; 1 where nothing is mixed."""
    cut: Tensor
    """[B], whether the rest is a rectangle (CutMix) rather than a fade (mixup)."""

    def __getitem__(self, rows: slice | Tensor) -> "Draws":
        return Draws(self.uniform[rows], self.share[rows], self.cut[rows])


def draw(batch: int, config: AugmentConfig, *, seed: int, step: int, late: bool = False) -> Draws:
    """Draw the parameters of a step; `late` leaves out what the last epochs go without."""
    random = np.random.Generator(np.random.Philox(key=[seed, step]))
    uniform = torch.from_numpy(random.random((batch, _COLUMNS), np.float32))
    share, cut = torch.ones(batch), torch.zeros(batch, dtype=torch.bool)
    if (config.mixup or config.cutmix) and not late:
        both = bool(config.mixup and config.cutmix)
        cut = uniform[:, 19] < 0.5 if both else torch.full((batch,), bool(config.cutmix))
        alpha = np.where(cut.numpy(), config.cutmix or 1, config.mixup or 1)
        share = torch.from_numpy(random.beta(alpha, alpha).astype(np.float32))
    return Draws(uniform, share, cut)


def augment(
    images: Tensor, size: int, image_size: int, config: AugmentConfig, draws: Draws, *,
    late: bool = False, chosen: Tensor | None = None, compiled: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return float (B, 3, S, S) in 0..255 from uint8 (B, C, C, 3), and each photo's own share.

    A photo's partner is its neighbour (0 and 1, 2 and 3, …), so that pairs are never cut apart.
    `chosen` (B,) says which photos are augmented; the others are cut as in validation.
    With `compiled`, what would pass over all the pixels again and again is fused.
    """
    device = images.device
    uniform = onto(device, draws.uniform)
    pixels = images.permute(0, 3, 1, 2).float()
    if size < image_size:
        # The whole square shrinks first: a crop that is sampled at half its pixels would alias.
        side = resize_size(size)
        pixels = F.interpolate(pixels, (side, side), mode="bilinear", antialias=True)
    start = (pixels.shape[-1] - size) // 2
    plain = pixels[..., start : start + size, start : start + size]
    operation = trivial_augment.choose(draws.uniform, 0.0 if late else config.trivial)
    pixels = _geometry(pixels, size, config, uniform, operation.matrices())
    if config.brightness or config.contrast or config.saturation:
        spreads = (config.brightness, config.contrast, config.saturation)
        pixels = (_fused() if compiled else _colour)(pixels, *spreads, uniform[:, 5:8])
    pixels = operation.apply(pixels)
    if config.erasing and not late:
        erased = _rectangle(uniform[:, 12:16], 0.02 + 0.31 * uniform[:, 16], size)
        erased &= (uniform[:, 17] < config.erasing)[:, None, None, None]
        # Zero once it is normalised. Channel by channel: a tensor made here would make CUDA wait.
        pixels = torch.stack(
            [
                channel.masked_fill(erased[:, 0], 255 * mean)
                for channel, mean in zip(pixels.unbind(1), MEAN, strict=True)
            ],
            1,
        )
    share = onto(device, draws.share)
    if chosen is not None:
        pixels = torch.where(chosen[:, None, None, None], pixels, plain)
        share = torch.where(chosen, share, 1.0)
    if (config.mixup or config.cutmix) and not late:
        return _mix(pixels, share, draws, uniform)
    return pixels, torch.ones(len(pixels), device=device)


def partners(values: Tensor) -> Tensor:
    """Return, for each row of (B, …), its neighbour's."""
    return values.reshape(-1, 2, *values.shape[1:]).flip(1).reshape(values.shape)


def _geometry(
    pixels: Tensor, size: int, config: AugmentConfig, uniform: Tensor, moved: Tensor | None
) -> Tensor:
    """Crop, flip and turn with one resampling, or cut the centre where nothing moves."""
    if config.crop_area == 1 and not config.rotation and moved is None:
        start = (pixels.shape[-1] - size) // 2
        pixels = pixels[..., start : start + size, start : start + size]
        flipped = uniform[:, 4] < config.flip
        return torch.where(flipped[:, None, None, None], pixels.flip(-1), pixels)
    maps = _crop_and_flip(config, uniform, size / pixels.shape[-1])
    if config.rotation:
        angle = (2 * uniform[:, 8] - 1) * math.radians(config.rotation)
        turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1)
        maps[:, :, :2] = maps[:, :, :2] @ turn.reshape(-1, 2, 2)
    if moved is not None:
        # The operation moves the cropped photo, so its map comes first on the way back.
        moved = onto(maps.device, moved)
        maps[:, :, 2:] += maps[:, :, :2] @ moved[:, :, 2:]
        maps[:, :, :2] = maps[:, :, :2] @ moved[:, :, :2]
    grid = F.affine_grid(maps, [len(pixels), 3, size, size], align_corners=False)
    return F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)


def _crop_and_flip(config: AugmentConfig, uniform: Tensor, centre: float) -> Tensor:
    """Return random resized crops (Szegedy et al. 2015) and flips as affine maps, (B, 2, 3)."""
    if config.crop_area < 1:
        area = config.crop_area + (1 - config.crop_area) * uniform[:, 0]
        root = torch.exp((2 * uniform[:, 1] - 1) * _LOG_RATIO / 2)
        width = (area.sqrt() * root).clamp(max=1)
        height = (area.sqrt() / root).clamp(max=1)
    else:
        width = height = torch.full_like(uniform[:, 0], centre)
    x, y = (2 * uniform[:, 2] - 1, 2 * uniform[:, 3] - 1) if config.crop_area < 1 else (0.0, 0.0)
    maps = torch.zeros(len(uniform), 2, 3, device=uniform.device)
    maps[:, 0, 0] = width * torch.where(uniform[:, 4] < config.flip, -1.0, 1.0)
    maps[:, 0, 2] = x * (1 - width)
    maps[:, 1, 1] = height
    maps[:, 1, 2] = y * (1 - height)
    return maps


def _colour(
    pixels: Tensor, brightness: float, contrast: float, saturation: float, uniform: Tensor
) -> Tensor:
    def factor(column: int, spread: float) -> Tensor:
        return 1 + (2 * uniform[:, column, None, None, None] - 1) * spread

    pixels = pixels * factor(0, brightness)
    mean = trivial_augment.grey(pixels).mean((2, 3), keepdim=True)
    pixels = torch.lerp(mean, pixels, factor(1, contrast))
    return torch.lerp(trivial_augment.grey(pixels), pixels, factor(2, saturation)).clamp_(0, 255)


@cache
def _fused() -> Callable[..., Tensor]:
    fused: Callable[..., Tensor] = torch.compile(_colour, dynamic=False)
    return fused


def _rectangle(place: Tensor, area: Tensor, size: int) -> Tensor:
    """Return masks (B, 1, S, S) of rectangles: `area` of the photo, 0.3 to 3.3 wide by high."""
    ratio = torch.exp((2 * place[:, 2] - 1) * math.log(3.3) / 2)
    width = (area.sqrt() * ratio).clamp(max=1) * size
    height = (area.sqrt() / ratio).clamp(max=1) * size
    left, top = place[:, 0] * (size - width), place[:, 1] * (size - height)
    at = torch.arange(size, device=place.device) + 0.5
    across = (at > left[:, None]) & (at < (left + width)[:, None])
    down = (at > top[:, None]) & (at < (top + height)[:, None])
    return (down[:, :, None] & across[:, None, :])[:, None]


def _mix(pixels: Tensor, share: Tensor, draws: Draws, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Mix each photo with its neighbour; the share of a cut photo is what the rectangle leaves."""
    cut = onto(pixels.device, draws.cut)
    # The middle column is the ratio: a square keeps the area exact.
    place = torch.stack([uniform[:, 12], uniform[:, 13], torch.full_like(share, 0.5)], 1)
    other = _rectangle(place, 1 - share, pixels.shape[-1]).float()
    other = torch.where(cut[:, None, None, None], other, (1 - share)[:, None, None, None])
    share = torch.where(cut, 1 - other[:, 0].mean((-2, -1)), share)
    return torch.lerp(pixels, partners(pixels), other), share
