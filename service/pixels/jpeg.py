"""The usual photo, fast: a baseline JPEG of three components, decoded at about the size wanted.

libjpeg-turbo scales by eighths while it decodes, for less than the whole costs. Which files it gets
is decided by their headers; every other kind, and whatever is odd about a file, is Pillow's.

Shapes: H height, W width, C channels.
"""

from dataclasses import dataclass

import numpy as np
import simplejpeg
from numpy.typing import NDArray

_START, _SCAN = 0xD8, 0xDA
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""The start of a frame, of whatever kind (ITU T.81, table B.1)."""
_BASELINE = (0xC0, 0xC1)
_APP1 = 0xE1
_EXIF = b"Exif\0\0"
_SMALL_BYTES = 2**18
_SMALL_PIXELS = 2_000_000


@dataclass(frozen=True, slots=True)
class Header:
    """What the header of a usual photo says."""

    width: int
    height: int
    exif: bytes
    """The EXIF block, `Exif` and two zeros first; empty if it has none."""

    def scaled_pixels(self, side: int) -> int:
        """Return how many pixels `decode` makes at most, for this `side`."""
        short = max(min(self.width, self.height), 1)
        eighths = min(-(-8 * side // short) + 1, 8)
        return self.width * self.height * eighths**2 // 64


def usual(data: bytes) -> Header | None:
    """Return the header if this is a usual photo: baseline, 8 bits, three components, one scan."""
    if data[:2] != bytes((0xFF, _START)):
        return None
    at, frame, exif = 2, None, b""
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            return None
        kind = data[at + 1]
        length = int.from_bytes(data[at + 2 : at + 4])
        if kind == _SCAN:
            # All components in the first scan: then there is no other.
            return Header(*frame, exif) if frame and data[at + 4 : at + 5] == b"\3" else None
        body = data[at + 4 : at + 2 + length]
        if kind in _FRAMES:
            # 8 bits, height, width, number of components (ITU T.81, B.2.2).
            if kind not in _BASELINE or frame or body[:1] != b"\x08" or body[5:6] != b"\3":
                return None
            frame = int.from_bytes(body[3:5]), int.from_bytes(body[1:3])
            if 0 in frame:
                return None
        elif kind == _APP1 and body.startswith(_EXIF) and not exif:
            exif = body
        elif kind == _APP1 and b"tiff:Orientation" in body:
            return None  # XMP, which says in XML how the photo is turned
        elif kind < 0xC0:  # no segment has such a name: padding, or damage
            return None
        at += 2 + length
    return None


def is_small(data: bytes) -> bool:
    """Return whether this is a usual photo that is decoded in a few milliseconds."""
    if len(data) > _SMALL_BYTES:
        return False
    header = usual(data)
    return header is not None and header.width * header.height <= _SMALL_PIXELS


def decode(data: bytes, side: int) -> NDArray[np.uint8]:
    """Return the photo, RGB, (H, W, 3), scaled by eighths so that no side is below `side`.

    Raises:
        ValueError: libjpeg finds something odd in it, or it ends too early.
    """
    pixels_HWC: NDArray[np.uint8] = simplejpeg.decode_jpeg(
        data, "RGB", min_height=side, min_width=side
    )
    return pixels_HWC
