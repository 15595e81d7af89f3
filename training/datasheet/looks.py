"""One photo, looked at once: what its file says, and what its pixels are.

Decoded once, by the function that serves, so 'unreadable' means here what it means in serving.

Shapes: S side of the small square.
"""

import hashlib
import io
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from photo_folder.reading import content
from service.pixels.preprocessing import Facts, ImageError, examine, load_square
from training.data.decoding import unread
from training.datasheet.duplicates import SIDE, perceptual_hash

TINY_PX = 64
"""A shorter side below this is noted: it is enlarged to whatever a model sees."""

EXTREME_ASPECT = 3.0
"""Sides further apart than this are noted: the centre crop throws most of the photo away."""

BLACK_LEVEL = 16
"""Of 255: a photo whose every pixel is below this is noted, since nobody would see it. 12 bits that
were stored in 16 without being scaled look like that."""

_CHECK_SIDE = 4 * SIDE
"""Decoders scale JPEGs each in its way; box-averaged from this, their copies still agree."""


@dataclass(frozen=True, slots=True)
class Look:
    """What a readable photo is like."""

    digest: str
    """SHA-256 of the file."""
    hash: int
    """64-bit perceptual hash of the central square."""
    num_bytes: int
    width: int
    """As people see it: after the EXIF rotation."""
    height: int
    format: str
    mode: str
    """Pillow's colour mode, e.g. RGB, L, CMYK."""
    orientation: int
    """EXIF orientation, 1 to 8; 1 is upright."""
    bits: int
    """Of each channel, as it is stored: 8 or 16."""
    animated: bool
    """Whether there are more frames or pages than the first, which is taken."""
    wide_gamut: bool
    """Whether its colours were converted to sRGB by its colour profile."""
    transparent: bool
    """Whether nothing of it is to be seen."""
    brightest: int
    """The highest level in the central square, 0 to 255."""
    camera: str
    """Maker and model, by EXIF; empty where it does not say when the photo was taken."""
    taken_s: float
    """When, by the camera's clock, in seconds since an epoch; 0 where EXIF does not say."""
    mean: tuple[float, float, float]
    """Of the red, green and blue of the central square, 0 to 1."""
    square: tuple[float, float, float]
    """Mean squares of the same, for deviations over many photos."""

    def notes(self) -> list[str]:
        """Return what is unusual about it, none of which keeps it from training."""
        short, long = sorted((self.width, self.height))
        found = {
            "animated": self.animated,
            "CMYK": self.mode == "CMYK",
            "converted to sRGB": self.wide_gamut,
            "fully transparent": self.transparent,
            "nearly black": self.brightest < BLACK_LEVEL,
            "12 bits in 16": self.brightest < BLACK_LEVEL and self.bits == 16,
            "tiny": short < TINY_PX,
            "extreme aspect": long > EXTREME_ASPECT * short,
        }
        return [name for name, holds in found.items() if holds]


def look(path: Path) -> Look | str:
    """Return what a photo is like, or why it cannot be read."""
    try:
        data = content(str(path))
    except OSError as error:
        return unread(error)
    try:
        return _look(data, *examine(data, _CHECK_SIDE))
    except ImageError as error:
        return str(error)


def small(path: Path) -> NDArray[np.uint8] | None:
    """Return the small square (S, S, 3) that copies are told by; None if it cannot be read."""
    try:
        pixels = load_square(content(str(path)), _CHECK_SIDE)
    except (ImageError, OSError):
        return None
    image = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(image)


def _look(data: bytes, pixels: NDArray[np.uint8], facts: Facts) -> Look:
    # Orientations from 5 on lie on their side.
    width, height = (facts.width, facts.height)[:: 1 if facts.orientation < 5 else -1]
    channels = pixels.reshape(-1, 3) / 255.0
    red, green, blue = channels.mean(0).tolist()
    red2, green2, blue2 = (channels**2).mean(0).tolist()
    camera, taken_s = _taken(data) if facts.format == "JPEG" else ("", 0.0)
    return Look(
        digest=hashlib.sha256(data).hexdigest(),
        hash=perceptual_hash(pixels),
        num_bytes=len(data),
        width=width,
        height=height,
        format=facts.format,
        mode=facts.mode,
        orientation=facts.orientation,
        bits=facts.bits,
        animated=facts.animated,
        wide_gamut=facts.profile,
        transparent=facts.transparent,
        brightest=int(pixels.max()),
        camera=camera,
        taken_s=taken_s,
        mean=(red, green, blue),
        square=(red2, green2, blue2),
    )


def _taken(data: bytes) -> tuple[str, float]:
    """Return the camera of a JPEG and when it took it; an empty name where EXIF does not say."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            exif = image.getexif()
        text = str(exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.DateTimeOriginal, ""))
        moment = datetime.strptime(text.strip("\0 "), "%Y:%m:%d %H:%M:%S").replace(tzinfo=UTC)
        named = (str(exif.get(tag, "")) for tag in (ExifTags.Base.Make, ExifTags.Base.Model))
        camera = " ".join(" ".join(name.strip("\0 ") for name in named).split())
    # Whatever a damaged block makes Pillow raise: it says nothing then, and the photo is a photo.
    except Exception:
        return "", 0.0
    return camera or "a camera", moment.timestamp()
