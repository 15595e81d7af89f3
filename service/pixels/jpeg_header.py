"""What stands before the first scan of a JPEG, read as the standard says (ITU T.81, annex B).

libjpeg is laxer in places, and followed there: fill bytes before a marker, markers without a length
where none belongs, bytes between segments. Each file is read in a bounded number of steps.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from service.errors import ImageError

_EDGES = frozenset((0xD8, 0xD9))
"""The start and the end of a picture."""
_SCAN = 0xDA
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""The start of a frame, of whatever kind (table B.1)."""
_BASELINE, _DECODED = (0xC0, 0xC1), (0xC0, 0xC1, 0xC2, 0xC9, 0xCA)
_BARE = frozenset((0x00, 0x01, *range(0xD0, 0xD8)))
"""TEM and RSTn, markers that no length follows, and 0, which makes none."""
_APP1, _APP2 = 0xE1, 0xE2
_EXIF, _ICC, _XMP = b"Exif\0\0", b"ICC_PROFILE\0", b"http://ns.adobe.com/xap/1.0/\0"
_FILL = re.compile(rb"\xff*")

_MAX_SEGMENTS = 1024
"""Cameras write 20; the longest colour profile and XMP together take 600."""
_SMALL_SEGMENTS = 64
_SMALL_BYTES = 2**18
_SMALL_PIXELS = 2_000_000

CUT_OFF = "the image is cut off: its file ends before the picture does; fetch it again"
_BROKEN = "the image is broken"


class Header(NamedTuple):
    """What the segments before the first scan say. Made for each photo: a tuple is made fast."""

    width: int
    height: int
    components: int
    """1 grey, 3 colour, 4 CMYK."""
    factors: bytes
    """For each component how finely it is sampled: 16 times horizontally, and vertically."""
    one_scan: bool
    """Baseline, and all in one scan: a row of blocks is kept at a time, and not all of them."""
    usual: bool
    """Whether it is as cameras write it, and nothing about it odd."""
    scan_at: int
    """Where the first scan begins."""
    exif: bytes
    xmp: bytes
    icc: bytes
    junk: tuple[slice, ...]
    """Where bytes lie that belong to no segment."""


class SmallJpeg(NamedTuple):
    """A photo that is decoded in a few milliseconds, and its header, which is read once."""

    data: bytes
    header: Header


def small(data: bytes) -> SmallJpeg | None:
    """Return a photo with its header if it is a small one, else None. Costs microseconds."""
    if len(data) > _SMALL_BYTES or data[:2] != b"\xff\xd8":
        return None
    try:
        header = read(data, most_segments=_SMALL_SEGMENTS)
    except ImageError:
        return None
    fits = header.one_scan and header.width * header.height <= _SMALL_PIXELS
    return SmallJpeg(data, header) if fits else None


def read(data: bytes, *, most_segments: int = _MAX_SEGMENTS) -> Header:
    """Go through the segments before the first scan.

    Args:
        data: A file that begins as JPEGs do.
        most_segments: How many there may be.

    Raises:
        ImageError: It is broken, ends too early, or is of a kind that is not decoded.
    """
    at, frame, usual = 2, b"", True
    exif = xmp = b""
    profile: list[bytes] = []
    junk: list[slice] = []
    try:
        for _ in range(most_segments):
            if data[at] != 0xFF:
                start, at = at, data.index(b"\xff", at)
                junk.append(slice(start, at))
            kind = data[at + 1]
            if kind == 0xFF:
                at, usual = _FILL.match(data, at).end() - 1, False  # type: ignore[union-attr]
                kind = data[at + 1]
            if kind in _BARE:
                junk.append(slice(at, at + 2))
                at += 2
                continue
            if kind in _EDGES:
                raise ImageError(f"{_BROKEN}: it starts twice, or ends before its picture starts")
            body, at = at + 4, at + 2 + (data[at + 2] << 8 | data[at + 3])
            if at < body:
                raise ImageError(f"{_BROKEN}: a segment of its header has no length")
            if at > len(data):
                raise ImageError(CUT_OFF)
            if kind == _SCAN:
                icc = _joined(profile) if profile else b""
                usual = usual and not junk
                return _header(frame, data[body], usual, body - 4, exif, xmp, icc, tuple(junk))
            if kind in _FRAMES:
                if frame:
                    raise ImageError(f"{_BROKEN}: it has two frames")
                frame = data[body - 3 : at]
            elif kind == _APP1:
                if not exif and data.startswith(_EXIF, body):
                    exif = data[body:at]
                elif data.find(b"tiff:Orientation", body, at) >= 0:
                    # XMP, which says in XML how the photo is turned.
                    xmp, usual = data[body:at].removeprefix(_XMP), False
            elif kind == _APP2 and data.startswith(_ICC, body):
                profile.append(data[body:at])
    except (IndexError, ValueError):
        raise ImageError(CUT_OFF) from None
    raise ImageError(f"{_BROKEN}: it has more than {most_segments} segments before its picture")


def without(data: bytes, junk: Sequence[slice]) -> bytes:
    """Return a file without some of its parts, which are given in their order."""
    ends = [0, *(part.stop for part in junk)]
    starts = [*(part.start for part in junk), len(data)]
    return b"".join(data[end:start] for end, start in zip(ends, starts, strict=True))


def _header(
    frame: bytes,
    in_scan: int,
    usual: bool,
    at: int,
    exif: bytes,
    xmp: bytes,
    icc: bytes,
    junk: tuple[slice, ...],
) -> Header:
    """Make the header of a frame: its kind, then as it stands in the file (B.2.2)."""
    if len(frame) < 9:
        raise ImageError(f"{_BROKEN}: it has no frame")
    kind, bits, components = frame[0], frame[3], frame[8]
    height, width = int.from_bytes(frame[4:6]), int.from_bytes(frame[6:8])
    factors = frame[10 : 9 + 3 * components : 3]
    if kind not in _DECODED or bits != 8 or components not in (1, 3, 4):
        raise ImageError(
            f"this is a JPEG of a rare kind (frame {kind:02X}, {bits} bits, {components}"
            " components); save it as a baseline JPEG of 8 bits",
            kind="format",
        )
    if not width or not height or len(factors) < components or 0 in factors:
        raise ImageError(f"{_BROKEN}: its frame has no size")
    one_scan = kind in _BASELINE and in_scan == components
    usual = usual and one_scan and components == 3
    return Header(width, height, components, factors, one_scan, usual, at, exif, xmp, icc, junk)


def _joined(parts: list[bytes]) -> bytes:
    """Return a colour profile of its numbered parts (ICC.1:2022, B.4); nothing if one lacks."""
    number = len(_ICC)
    parts.sort(key=lambda part: part[number : number + 1])
    numbers = b"".join(part[number : number + 1] for part in parts)
    if numbers != bytes(range(1, 1 + len(parts) % 256)):
        return b""
    return b"".join(part[number + 2 :] for part in parts)
