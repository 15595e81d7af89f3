"""How a picture must be turned: the one number that is read of EXIF and of XMP.

Read here and not by Pillow, which takes ten times as long and reads all of whatever a file brings.
"""

import re
import struct

from PIL import Image

_EXIF = b"Exif\0\0"
_TAG = 0x0112  # orientation, EXIF 2.32
_NUMBERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}
"""TIFF's kinds of whole numbers; it says SHORT, and some cameras write others."""
_XMP = re.compile(rb"tiff:Orientation(?:=[\"']|>)([0-9])")
_XMP_BYTES = 2**20

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation → what turns the picture upright."""


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """Return the picture upright, whatever its orientation is said to be."""
    turn = _UPRIGHT.get(orientation)
    return image if turn is None else image.transpose(turn)


def read(exif: bytes, xmp: bytes = b"") -> int:
    """Return the orientation of a picture, 1 to 8: EXIF's, else XMP's, else 1, upright.

    A block that is damaged says nothing: a photo with broken EXIF is still a photo.
    """
    found = _of_exif(exif) if exif else 0
    if not found and xmp and (match := _XMP.search(xmp, 0, _XMP_BYTES)):
        found = int(match[1])
    return found if 1 <= found <= 8 else 1


def _of_exif(block: bytes) -> int:
    """Return what the first directory of an EXIF block says; 0 where it says nothing."""
    start = len(_EXIF) if block.startswith(_EXIF) else 0
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[start : start + 4])
    if order is None:
        return 0
    try:
        (at,) = struct.unpack_from(f"{order}I", block, start + 4)
        (count,) = struct.unpack_from(f"{order}H", block, start + at)
        entry = struct.Struct(f"{order}HHI")
        first = start + at + 2
        for at in range(first, first + 12 * count, 12):
            tag, kind, values = entry.unpack_from(block, at)
            if tag == _TAG:
                if values != 1 or kind not in _NUMBERS:
                    return 0
                return int(struct.unpack_from(order + _NUMBERS[kind], block, at + 8)[0])
    except struct.error:  # it points out of the block
        pass
    return 0
