"""Augmentation: batched operations on the device, each photo with random parameters of its own.

uint8 squares → rotation, crop, flip (one resampling) → colour → TrivialAugment → erasing → mixing

Shapes: B batch, C side of the cached square, S side of the model's square.
"""

import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from service.pixels.preprocessing import resize_size
from training.config import AugmentConfig
from training.data import trivial_augment
from training.data.augment_parameters import AugmentParameters, Column
from training.data.cache import MEAN, crops_side
from training.data.loader import to_device

_LOG_CROP_RATIO = math.log(4 / 3)
"""Crops are up to a third wider than high, or higher than wide (Szegedy et al. 2015)."""
_LOG_ERASING_RATIO = math.log(3.3)


def augment(
    images: Tensor, size: int, image_size: int, config: AugmentConfig,
    parameters: AugmentParameters, *,
    late: bool = False, chosen: Tensor | None = None, compiled: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return the augmented photos, and the part of each that is its own where photos are mixed.

    Args:
        images: uint8 (B, C, C, 3), or with `config.sharp_crops` larger squares.
        size: S, the side to train at.
        image_size: The side that is validated at; a smaller `size` shrinks the photos first.
        config: What is done, and how strongly.
        parameters: The random parameters of these photos.
        late: Leave out TrivialAugment, erasing and mixing, as in the last epochs.
        chosen: (B,), which photos are augmented; the others are the centre, as in validation.
        compiled: Fuse the operations on colour, which else pass over all pixels several times.

    Returns:
        float (B, 3, S, S) from 0 to 255, and (B,) from 0 to 1. A photo is mixed with its neighbour
        (0 with 1, 2 with 3, …), so a cut into micro-batches of even size parts no pair. The last of
        an odd number is mixed with itself.
    """
    device = images.device
    uniform = to_device(device, parameters.uniform)
    photos = pixels = images.permute(0, 3, 1, 2).float()
    if size < image_size:
        # The whole square shrinks first: a crop that is sampled at half its pixels would alias.
        larger = pixels.shape[-1] > resize_size(image_size)
        pixels = _shrunk(pixels, crops_side(size) if larger else resize_size(size))
    operations = trivial_augment.choose(
        parameters.uniform, 0.0 if late else config.trivial, colours=config.trivial_colours
    )
    pixels = _geometry(pixels, size, config, uniform, operations.matrices())
    if config.brightness or config.contrast or config.saturation:
        spreads = (config.brightness, config.contrast, config.saturation)
        pixels = (_compiled_colour() if compiled else _colour)(pixels, *spreads, uniform)
    pixels = operations.apply(pixels)
    if config.erasing and not late:
        pixels = _erase(pixels, uniform, config.erasing)
    share = to_device(device, parameters.share)
    if chosen is not None:
        plain = _centre(_shrunk(photos, resize_size(size)), size)
        pixels = torch.where(chosen[:, None, None, None], pixels, plain)
        share = torch.where(chosen, share, 1.0)
    if config.mixes and not late:
        cut, corner = (to_device(device, each) for each in (parameters.cut, parameters.corner))
        return _mix(pixels, share, cut, corner)
    return pixels, torch.ones(len(pixels), device=device)


def _shrunk(pixels: Tensor, side: int) -> Tensor:
    """Return whole squares at a smaller side, or as they are at their own."""
    if side == pixels.shape[-1]:
        return pixels
    return F.interpolate(pixels, (side, side), mode="bilinear", antialias=True)


def _centre(pixels: Tensor, size: int) -> Tensor:
    start = (pixels.shape[-1] - size) // 2
    return pixels[..., start : start + size, start : start + size]


def partners(values: Tensor) -> Tensor:
    """Return, for each row of (B, …), the row of the photo that it is mixed with."""
    paired = values[: len(values) // 2 * 2]
    swapped = paired.reshape(-1, 2, *values.shape[1:]).flip(1).reshape(paired.shape)
    return swapped if len(paired) == len(values) else torch.cat([swapped, values[-1:]])


def _geometry(
    pixels: Tensor, size: int, config: AugmentConfig, uniform: Tensor, moved: Tensor | None
) -> Tensor:
    """Crop, flip and rotate in one resampling; `moved` are TrivialAugment's maps, (B, 2, 3)."""
    if config.crop_area == 1 and not config.rotation and moved is None:
        pixels = _centre(pixels, size)
        flipped = uniform[:, Column.FLIP] < config.flip
        return torch.where(flipped[:, None, None, None], pixels.flip(-1), pixels)
    maps = _crop_and_flip(config, uniform, size / pixels.shape[-1])
    if config.rotation:
        angle = (2 * uniform[:, Column.ANGLE] - 1) * math.radians(config.rotation)
        turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1)
        maps[:, :, :2] = maps[:, :, :2] @ turn.reshape(-1, 2, 2)
    if moved is not None:
        # Maps go from output to input: the operation on the cropped photo is applied first.
        moved = to_device(maps.device, moved)
        maps[:, :, 2:] += maps[:, :, :2] @ moved[:, :, 2:]
        maps[:, :, :2] = maps[:, :, :2] @ moved[:, :, :2]
    grid = F.affine_grid(maps, [len(pixels), 3, size, size], align_corners=False)
    return F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)


def _crop_and_flip(config: AugmentConfig, uniform: Tensor, centre: float) -> Tensor:
    """Return random resized crops and flips as affine maps, (B, 2, 3), output to input.

    `centre` is the width and height of the crop where crops are off, as a part of the square.
    """
    x: Tensor | float = 0.0
    y: Tensor | float = 0.0
    if config.crop_area < 1:
        area = config.crop_area + (1 - config.crop_area) * uniform[:, Column.CROP_AREA]
        root = torch.exp((2 * uniform[:, Column.CROP_RATIO] - 1) * _LOG_CROP_RATIO / 2)
        width = (area.sqrt() * root).clamp(max=1)
        height = (area.sqrt() / root).clamp(max=1)
        x, y = 2 * uniform[:, Column.CROP_X] - 1, 2 * uniform[:, Column.CROP_Y] - 1
    else:
        width = height = torch.full_like(uniform[:, Column.CROP_AREA], centre)
    maps = torch.zeros(len(uniform), 2, 3, device=uniform.device)
    maps[:, 0, 0] = width * torch.where(uniform[:, Column.FLIP] < config.flip, -1.0, 1.0)
    maps[:, 0, 2] = x * (1 - width)
    maps[:, 1, 1] = height
    maps[:, 1, 2] = y * (1 - height)
    return maps


def _colour(
    pixels: Tensor, brightness: float, contrast: float, saturation: float, uniform: Tensor
) -> Tensor:
    def factor(column: int, spread: float) -> Tensor:
        return 1 + (2 * uniform[:, column, None, None, None] - 1) * spread

    pixels = pixels * factor(Column.BRIGHTNESS, brightness)
    mean = trivial_augment.grey(pixels).mean((2, 3), keepdim=True)
    pixels = torch.lerp(mean, pixels, factor(Column.CONTRAST, contrast))
    grey = trivial_augment.grey(pixels)
    return torch.lerp(grey, pixels, factor(Column.SATURATION, saturation)).clamp_(0, 255)


@cache
def _compiled_colour() -> Callable[..., Tensor]:
    compiled: Callable[..., Tensor] = torch.compile(_colour, dynamic=False)
    return compiled


def _erase(pixels: Tensor, uniform: Tensor, probability: float) -> Tensor:
    """Blank a rectangle of 2 to 33 % of some photos (Zhong et al. 2017)."""
    area = 0.02 + 0.31 * uniform[:, Column.ERASING_AREA]
    corner = uniform[:, Column.ERASING_X : Column.ERASING_Y + 1]
    erased = _rectangles(corner, uniform[:, Column.ERASING_RATIO], area, pixels.shape[-1])
    erased &= (uniform[:, Column.ERASING] < probability)[:, None, None, None]
    # The mean, which is 0 once normalised. A tensor of three means would make CUDA wait.
    return torch.stack(
        [
            channel.masked_fill(erased[:, 0], 255 * mean)
            for channel, mean in zip(pixels.unbind(1), MEAN, strict=True)
        ],
        1,
    )


def _rectangles(corner: Tensor, ratio: Tensor, area: Tensor, size: int) -> Tensor:
    """Return masks (B, 1, S, S) of a rectangle each, of `area` as a part of the photo.

    `corner` (B, 2) from 0 to 1 says where it lies, across and down. `ratio` (B,) from 0 to 1
    decides width by height, from 0.3 to 3.3; 0.5 is a square.
    """
    root = torch.exp((2 * ratio - 1) * _LOG_ERASING_RATIO / 2)
    width = (area.sqrt() * root).clamp(max=1) * size
    height = (area.sqrt() / root).clamp(max=1) * size
    left = corner[:, 0] * (size - width)
    top = corner[:, 1] * (size - height)
    at = torch.arange(size, device=corner.device) + 0.5
    across = (at > left[:, None]) & (at < (left + width)[:, None])
    down = (at > top[:, None]) & (at < (top + height)[:, None])
    return (down[:, :, None] & across[:, None, :])[:, None]


def _mix(pixels: Tensor, share: Tensor, cut: Tensor, corner: Tensor) -> tuple[Tensor, Tensor]:
    """Mix each photo with its partner; the share of a cut photo is what the rectangle leaves."""
    # Squares, since a long rectangle would be cut at the edge and lose some of its area.
    other = _rectangles(corner, torch.full_like(share, 0.5), 1 - share, pixels.shape[-1]).float()
    other = torch.where(cut[:, None, None, None], other, (1 - share)[:, None, None, None])
    share = torch.where(cut, 1 - other[:, 0].mean((-2, -1)), share)
    return torch.lerp(pixels, partners(pixels), other), share
