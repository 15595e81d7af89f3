"""Encoded photo → the square of pixels that a model sees, in training and in serving alike.

    formats ─► header (jpeg, raster) ─► budget ─► decode ─► colour ─► resize to S·256/224 ─► turn
                                                                                  └─► centre crop S

JPEGs are scaled by their decoder, to no less than that shorter side, and the rest of the way by an
antialiased bilinear filter. On 1,244 photos of 348 px, at 64 px, that costs half the time of
decoding them whole and a bicubic filter (2,420 and 1,280 photos per CPU-second), and a model that
was trained on the latter's pixels finds 63.3 % of the classes instead of 62.9 %.

Training, offline classification and serving ask this one function: the same bytes get the same
pixels, or the same sentence.

Shapes: H height, W width, C channels.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.errors import ImageError
from service.pixels import colour, formats, orientation
from service.pixels.budget import HELPER_BYTES, SMALL_BYTES, Budget, mib, of_process
from service.pixels.formats import MAX_BYTES
from service.pixels.jpeg import Jpeg
from service.pixels.jpeg_header import SmallJpeg
from service.pixels.raster import Raster

__all__ = ["COMPATIBLE", "MAX_BYTES", "PREPROCESSING", "Facts", "ImageError", "centre_crop",
           "examine", "load_square", "preprocess", "resize_size"]  # fmt: skip

PREPROCESSING = "scaled-jpeg-bilinear-256/224-centre-3"
"""Names the rule. It stands in every cache key and every model file: change it with the pixels."""

COMPATIBLE = frozenset({PREPROCESSING, "scaled-jpeg-bilinear-256/224-centre-2"})
"""Rules whose models are served: of ordinary sRGB photos they make the very same pixels.

Rule 2 took the numbers of a wide-gamut photo for sRGB, and refused some photos."""

LoadSquare = Callable[[bytes, int], NDArray[np.uint8]]
"""`load_square` in another process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a picture is, beside its pixels."""

    format: str
    """Such as `JPEG`."""
    mode: str
    """Pillow's colour mode, such as RGB, L or CMYK."""
    bits: int
    """Of each channel, as it is stored: 8 or 16."""
    width: int
    """As it is stored, before it is turned."""
    height: int
    orientation: int
    """EXIF orientation, 1 to 8; 1 is upright."""
    animated: bool
    """Whether there are more frames or pages than the one that is taken, the first."""
    profile: bool
    """Whether its colours were converted to sRGB by its profile."""
    transparent: bool
    """Whether nothing of it is to be seen: it became white."""


def resize_size(image_size: int) -> int:
    """Return the side to which the shorter side is resized, in pixels, before the centre crop."""
    return round(image_size * 256 / 224)


def preprocess(
    data: bytes | SmallJpeg,
    image_size: int,
    *,
    budget: Budget | None = None,
    waits: bool = True,
    apart: LoadSquare | None = None,
) -> NDArray[np.uint8]:
    """Return the pixels that the model sees, uint8 RGB of shape (image_size, image_size, 3).

    Args:
        data: An encoded photo.
        image_size: Side of the square, in pixels.
        budget: The memory for decoding. None: this process's own, a quarter of the machine's.
        waits: Whether to wait for memory that is not free now.
        apart: Decodes what would keep the interpreter's lock for long. None: it is decoded here.

    Raises:
        ImageError: These bytes are no picture that is accepted.
        NoRoomNow: Its memory is not free now, and is not waited for.
    """
    side = resize_size(image_size)
    square_HWC = load_square(data, side, budget=budget, waits=waits, apart=apart)
    return centre_crop(square_HWC, image_size)


def centre_crop(square_HWC: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Cut the central `size` x `size` pixels out of the last three axes (H, W, C)."""
    top = (square_HWC.shape[-3] - size) // 2
    left = (square_HWC.shape[-2] - size) // 2
    return square_HWC[..., top : top + size, left : left + size, :]


def load_square(
    data: bytes | SmallJpeg,
    side: int,
    *,
    budget: Budget | None = None,
    waits: bool = True,
    apart: LoadSquare | None = None,
) -> NDArray[np.uint8]:
    """Decode, turn upright and resize; return the central square, uint8 RGB (side, side, 3).

    Size and memory are bounded by the header, before anything is decoded. Transparent pixels become
    white; of an animation the first frame is taken. The same bytes give the same pixels.

    Args:
        data: An encoded photo.
        side: Side of the square, in pixels.
        budget: As in `preprocess`.
        waits: As in `preprocess`.
        apart: As in `preprocess`.

    Raises:
        ImageError: Of no kind that is read, too large, cut off or broken.
        NoRoomNow: As in `preprocess`.
    """
    picture = _opened(data)
    helper = apart if picture.holds_lock else None
    with _room(picture, side, budget, waits, more_bytes=HELPER_BYTES if helper else 0):
        if helper and isinstance(data, bytes):
            return helper(data, side)
        return np.asarray(_square(picture, side))


def examine(data: bytes, side: int) -> tuple[NDArray[np.uint8], Facts]:
    """Return what `load_square` returns, and what the picture is; it raises the same."""
    picture = _opened(data)
    with _room(picture, side, None, waits=True):
        square_HWC = np.asarray(_square(picture, side))
        exif, xmp, icc = picture.metadata()
        return square_HWC, Facts(
            format=picture.name,
            mode=picture.mode,
            bits=picture.bits,
            width=picture.width,
            height=picture.height,
            orientation=orientation.read(exif, xmp),
            animated=picture.animated,
            profile=colour.transform(icc, picture.mode) is not None,
            # Asked of few: all of them white.
            transparent=bool(square_HWC.min() == 255) and picture.transparent,
        )


def _opened(data: bytes | SmallJpeg) -> Jpeg | Raster:
    """Read the header of a picture.

    Raises:
        ImageError: It is none, or none that is accepted.
    """
    if isinstance(data, SmallJpeg):
        return Jpeg(*data)
    if len(data) > MAX_BYTES:
        raise ImageError(
            f"the image has {len(data)} bytes; at most {MAX_BYTES} are accepted: save it smaller",
            kind="too_many_bytes",
        )
    kind = formats.detect(data)
    if kind is formats.JPEG:
        return Jpeg(data)
    if kind is formats.EMPTY:
        raise ImageError("the image is empty (0 bytes)", kind="empty")
    if not kind.readable:
        raise ImageError(kind.refusal(), kind="format")
    return Raster(data, kind)


def _room(
    picture: Jpeg | Raster,
    side: int,
    budget: Budget | None,
    waits: bool,
    *,
    more_bytes: int = 0,
) -> AbstractContextManager[None]:
    """Hold the memory that decoding takes, and more bytes with it, unless that is little."""
    peak_bytes = picture.peak_bytes(side) + more_bytes
    if peak_bytes <= SMALL_BYTES:
        return nullcontext()

    def refusal(most_bytes: int) -> str:
        # Memory goes with the area; a little less, since a part of it does not.
        shrink = 0.95 * math.sqrt(most_bytes / peak_bytes)
        return (
            f"decoding this {picture.name} of {picture.width} x {picture.height} pixels takes"
            f" {mib(peak_bytes)}, and at most {mib(most_bytes)} are given to it: shrink it to"
            f" {int(picture.width * shrink)} x {int(picture.height * shrink)} pixels or fewer, or"
            " save it as a baseline (not progressive) JPEG"
        )

    return (budget or of_process()).hold(peak_bytes, refusal, waits=waits)


def _square(picture: Jpeg | Raster, side: int) -> Image.Image:
    """Decode a picture and make the square of it, RGB and upright."""
    image = picture.decode(side)
    exif, xmp, icc = picture.metadata()
    profile = colour.transform(icc, image.mode) if icc else None
    width, height = image.size
    short = min(width, height)
    left, top = (width - short) // 2, (height - short) // 2
    box = (left, top, left + short, top + short)
    if not picture.usual:
        # Cut first: of a panorama only the part that is kept is converted and resized.
        as_it_is = profile is not None and image.mode == "CMYK"
        image = image.crop(box) if as_it_is else colour.rgb(image, box)
        box = (0, 0, short, short)
    square = image.resize((side, side), Image.Resampling.BILINEAR, box=box, reducing_gap=3.0)
    if profile is not None:
        square = colour.srgb(square, profile)
    return orientation.turned(square, orientation.read(exif, xmp)) if exif or xmp else square
