"""Policies: named augmentations with one strength, so that a search need not set twelve numbers."""

from dataclasses import replace
from typing import Literal, get_args

from training.config import AugmentConfig
from training.errors import ConfigError

Policy = Literal["none", "light", "standard", "trivialaugment", "mixup", "cutmix"]
POLICIES: tuple[Policy, ...] = get_args(Policy)
_OFF_SHARE = 0.1
"""Share of the epochs, the last ones, without the strongest distortions."""


def augmentation(name: str, strength: float = 0.5) -> AugmentConfig:
    """Return the settings of a policy.

    none            the centre, as in validation
    light           mirrored, up to 40 % of the area cut away, colours within 20 %
    standard        mirrored, random resized crops down to 8 %, colours within 30 %
    trivialaugment  standard at 0.5, turned by 15°, moved by TrivialAugment, erased, by the strength
    mixup, cutmix   standard at 0.5, and mixing with alpha 0.4 or 2 times the strength

    All that crop have sharp crops. At strength 0.5, `trivialaugment` is what the recipe `scratch`
    has.

    Raises:
        ConfigError: There is no such policy (the message lists them), or the strength is not within
            0 to 1.
    """
    if not 0 <= strength <= 1:
        raise ConfigError(f"augment.strength must be within 0 to 1, not {strength}")
    cropping = strength if name == "standard" else 0.5
    colour, saturation = round(0.3 * cropping, 4), round(0.2 * cropping, 4)
    standard = AugmentConfig(
        crop_area=round(max(1 - 1.3 * cropping, 0.08), 4), sharp_crops=True,
        brightness=colour, contrast=colour, saturation=saturation,
    )  # fmt: skip
    if name == "none":
        return AugmentConfig(crop_area=1, flip=0, brightness=0, contrast=0, saturation=0)
    if name == "light":
        little = round(0.2 * strength, 4)
        return AugmentConfig(
            crop_area=round(1 - 0.4 * strength, 4), sharp_crops=True,
            brightness=little, contrast=little, saturation=little,
        )  # fmt: skip
    if name == "standard":
        return standard
    if name == "trivialaugment":
        return replace(
            standard, rotation=15, trivial=strength, trivial_colours=False,
            erasing=strength / 2, off_share=_OFF_SHARE,
        )  # fmt: skip
    if name == "mixup":
        return replace(standard, mixup=0.4 * strength, off_share=_OFF_SHARE)
    if name == "cutmix":
        return replace(standard, cutmix=2 * strength, off_share=_OFF_SHARE)
    raise ConfigError(f"no augmentation policy {name!r}; there are {', '.join(POLICIES)}")
