"""Augmentation: each photo's own random parameters, applied as batched operations on the device.

The parameters are drawn on the CPU from (seed, step), so every device, every resumed run and
every number of machines sees the same photos.

Shapes: B batch, C side of the cached square, S side of the model's square.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from training.config import AugmentConfig

_LUMA = (0.299, 0.587, 0.114)
_LOG_RATIO = math.log(4 / 3)


def generator(*key: int) -> torch.Generator:
    """Return a generator that is a function of a few numbers."""
    seed = 0
    for number in key:
        # A step of a linear congruential generator: the order of the numbers counts too.
        seed = (seed * 6364136223846793005 + number + 1442695040888963407) % (2**63)
    return torch.Generator().manual_seed(seed)


def augment(images: Tensor, size: int, config: AugmentConfig, *, seed: int, step: int) -> Tensor:
    """Return float (B, 3, S, S) in 0..255 from uint8 (B, C, C, 3); a function of (seed, step)."""
    random = generator(seed, step)
    batch = len(images)
    pixels = images.permute(0, 3, 1, 2).float()
    geometry = _crop_and_flip(batch, config, random).to(pixels.device)
    factors = _factors(batch, config, random).to(pixels.device)
    if config.crop_area < 1:
        grid = F.affine_grid(geometry, [batch, 3, size, size], align_corners=False)
        pixels = F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    else:
        start = (pixels.shape[-1] - size) // 2
        pixels = pixels[..., start : start + size, start : start + size]
        flipped = geometry[:, 0, 0] < 0
        pixels = torch.where(flipped[:, None, None, None], pixels.flip(-1), pixels)
    if config.brightness or config.contrast or config.saturation:
        pixels = _colour(pixels, factors)
    return pixels


def _crop_and_flip(batch: int, config: AugmentConfig, random: torch.Generator) -> Tensor:
    """Draw random resized crops (Szegedy et al. 2015) and flips as affine maps, (B, 2, 3)."""
    area, ratio, x, y, flip = torch.rand(5, batch, generator=random)
    area = config.crop_area + (1 - config.crop_area) * area
    root = torch.exp((2 * ratio - 1) * _LOG_RATIO / 2)
    width = (area.sqrt() * root).clamp(max=1)
    height = (area.sqrt() / root).clamp(max=1)
    maps = torch.zeros(batch, 2, 3)
    maps[:, 0, 0] = width * torch.where(flip < config.flip, -1.0, 1.0)
    maps[:, 0, 2] = (2 * x - 1) * (1 - width)
    maps[:, 1, 1] = height
    maps[:, 1, 2] = (2 * y - 1) * (1 - height)
    return maps


def _factors(batch: int, config: AugmentConfig, random: torch.Generator) -> Tensor:
    """Draw brightness, contrast and saturation, (3, B, 1, 1, 1)."""
    spread = torch.tensor([config.brightness, config.contrast, config.saturation])
    drawn = 1 + (2 * torch.rand(3, batch, generator=random) - 1) * spread[:, None]
    return drawn[:, :, None, None, None]


def _colour(pixels: Tensor, factors: Tensor) -> Tensor:
    brightness, contrast, saturation = factors
    luma = torch.tensor(_LUMA, device=pixels.device)[:, None, None]
    pixels = pixels * brightness
    mean = (pixels * luma).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    pixels = torch.lerp(mean, pixels, contrast)
    grey = (pixels * luma).sum(1, keepdim=True)
    return torch.lerp(grey, pixels, saturation).clamp_(0, 255)
