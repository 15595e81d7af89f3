"""Whatever a picture's pixels are → RGB as a screen shows them, which is sRGB.

square (any mode) ─► rgb, a band of rows at a time ─► resized ─► srgb, where a profile says other
                                                                 colours are meant

Colours of a profile are converted last, when few pixels are left. A profile that means sRGB, in
whichever of its many makes, changes nothing: such pictures keep their very pixels.
"""

import hashlib
import io
import threading
from collections import OrderedDict

import numpy as np
from PIL import Image, ImageCms

from service.errors import ImageError

_BAND_PIXELS = 2**18
"""Pixels that are converted at a time: their copies stay small, and the interpreter's lock, which
Pillow keeps while it blends, is free again within a few milliseconds."""

_CONVERTED = {"1", "L", "P", "PA", "LA", "La", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"}
"""Modes that Pillow makes RGB of as a screen shows them."""

_SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
"""A profile's space (ICC.1:2022, 7.2.6) → the mode of pictures that it is for."""

_MAX_PROFILE_BYTES = 4 * 2**20
_PROFILES = 32
_SAME_LEVELS = 4
"""Of 255: makes of sRGB differ by up to 2 from each other; Display P3 differs by dozens."""

Transform = ImageCms.ImageCmsTransform


def peak_bytes(short: int, side: int) -> int:
    """Return what it takes to make RGB of a square and to resize it to a side, in bytes."""
    # Pillow keeps 4 bytes for RGB. A band is cut out, made RGBA, laid on white, and made RGB; a
    # square is first made three times as large as wanted.
    band, resized = min(short**2, max(_BAND_PIXELS, short)), min(short, 3 * side) ** 2
    return 4 * (short**2 + max(5 * band, 2 * resized))


def rgb(image: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    """Return a part of a picture as RGB, transparent pixels on white.

    Args:
        image: A loaded picture.
        box: Left, upper, right and lower edge, in pixels.

    Raises:
        ImageError: Its pixels are of a kind that no screen shows.
    """
    left, top, right, bottom = box
    if image.mode == "RGB" and not image.has_transparency_data:
        return image if box == (0, 0, *image.size) else image.crop(box)
    if image.mode not in _CONVERTED and not image.mode.startswith("I;16"):
        raise ImageError(
            f"the image has pixels of a kind that is not shown ({image.mode}); save it with 8 bits"
            " for each of red, green and blue",
            kind="format",
        )
    # None: filling it would keep the interpreter's lock, 15 ms for 49 million pixels.
    square = Image.new("RGB", (right - left, bottom - top), None)
    rows = max(_BAND_PIXELS // (right - left), 1)
    for y in range(top, bottom, rows):
        band = image.crop((left, y, right, min(y + rows, bottom)))
        square.paste(_band(band), (0, y - top))
    return square


def _band(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow would cut off at 255 instead of scaling.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def srgb(square: Image.Image, profile: Transform | None) -> Image.Image:
    """Return a square whose colours are as a profile says as sRGB.

    Args:
        square: RGB, or CMYK where the profile is for that.
        profile: What `transform` made of the profile.
    """
    if profile is None:
        return square.convert("RGB")
    mode = profile.input_mode
    # Of a grey picture the three channels are the same.
    return profile.apply(square.getchannel(0) if mode == "L" else square)


_lock = threading.Lock()
_known: OrderedDict[tuple[bytes, str], Transform | None] = OrderedDict()


def transform(icc: bytes, mode: str) -> Transform | None:
    """Return what takes colours of this profile to sRGB.

    None where nothing is to be done: none is given, it means sRGB, it is for other pixels than
    these, or it is damaged. Making one takes milliseconds, so the last ones are kept.

    Args:
        icc: An ICC profile, or nothing.
        mode: Pillow's mode of the picture.
    """
    if not icc or len(icc) > _MAX_PROFILE_BYTES:
        return None
    key = hashlib.blake2b(icc, digest_size=16).digest(), mode
    with _lock:
        if key in _known:
            _known.move_to_end(key)
            return _known[key]
    made = _made(icc, mode)
    with _lock:
        _known[key] = made
        while len(_known) > _PROFILES:
            _known.popitem(last=False)
    return made


def _made(icc: bytes, mode: str) -> Transform | None:
    grey = mode in ("1", "L", "LA", "I;16")
    wanted = "CMYK" if mode == "CMYK" else "L" if grey else "RGB"
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        if _SPACES.get(profile.profile.xcolor_space.strip()) != wanted:
            return None
        made = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), wanted, "RGB")
        colours = _colours(wanted)
        apart = np.asarray(made.apply(colours)).astype(int) - np.asarray(colours.convert("RGB"))
    except Exception:  # lcms raises almost anything on broken bytes; a browser ignores those, too
        return None
    return made if np.abs(apart).max() > _SAME_LEVELS else None


def _colours(mode: str) -> Image.Image:
    """Return a picture with every colour in nine steps of each channel."""
    steps = np.linspace(0, 255, 9).astype(np.uint8)
    if mode == "L":
        return Image.fromarray(steps[None])
    grid = np.stack(np.meshgrid(*[steps] * len(mode), indexing="ij"), -1)
    return Image.fromarray(grid.reshape(81, -1, len(mode)), mode)
