"""The random parameters of augmentation: a function of (seed, step), the same on every device.

They are sampled on the CPU for the whole batch and then cut to the part that a device computes.
So resumed runs and any number of processes see the same photos.

Shapes: B batch.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training.config import AugmentConfig


class Column:
    """What each of a photo's uniform numbers decides.

    Turning one augmentation on leaves the numbers of the others alone.
    """

    CROP_AREA = 0
    CROP_RATIO = 1
    CROP_X = 2
    CROP_Y = 3
    FLIP = 4
    BRIGHTNESS = 5
    CONTRAST = 6
    SATURATION = 7
    ANGLE = 8
    OPERATION = 9
    """TrivialAugment's; the next two are its strength and direction."""
    STRENGTH = 10
    SIGN = 11
    ERASING_X = 12
    ERASING_Y = 13
    ERASING_RATIO = 14
    UNUSED = 15
    """Kept, since a row of another length would give every run other numbers."""
    ERASING_AREA = 16
    ERASING = 17
    """Whether a rectangle is erased."""
    TRIVIAL_AUGMENT = 18
    """Whether an operation of TrivialAugment is applied."""
    CUTMIX = 19
    """CutMix or mixup, where both are on."""
    COUNT = 20


@dataclass(frozen=True, slots=True)
class AugmentParameters:
    """The random parameters of a batch, on the CPU; index them as the batch is indexed."""

    uniform: Tensor
    """[B, Column.COUNT], from 0 to 1."""
    share: Tensor
    """[B], the part of a mixed photo that is its own; 1 where nothing is mixed."""
    cut: Tensor
    """[B], whether the other part is a rectangle (CutMix) or a blend (mixup)."""
    corner: Tensor
    """[B, 2], where the rectangle of CutMix lies, from 0 to 1 across and down."""

    def __getitem__(self, rows: slice | Tensor) -> "AugmentParameters":
        return AugmentParameters(
            self.uniform[rows], self.share[rows], self.cut[rows], self.corner[rows]
        )


def sample_parameters(
    batch: int, config: AugmentConfig, *, seed: int, step: int, late: bool = False
) -> AugmentParameters:
    """Return the parameters of a step; `late` mixes no photos, as in the last epochs."""
    random = np.random.Generator(np.random.Philox(key=[seed, step]))
    uniform = torch.from_numpy(random.random((batch, Column.COUNT), np.float32))
    share, cut = torch.ones(batch), torch.zeros(batch, dtype=torch.bool)
    corner = torch.zeros(batch, 2)
    if config.mixes and not late:
        both = bool(config.mixup and config.cutmix)
        cut = uniform[:, Column.CUTMIX] < 0.5 if both else torch.full((batch,), bool(config.cutmix))
        alpha = np.where(cut.numpy(), config.cutmix or 1, config.mixup or 1)
        share = torch.from_numpy(random.beta(alpha, alpha).astype(np.float32))
        corner = torch.from_numpy(random.random((batch, 2), np.float32))
    return AugmentParameters(uniform, share, cut, corner)
