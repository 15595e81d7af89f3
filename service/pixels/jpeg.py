"""JPEGs: what decoding one takes, and its pixels, by one decoder, which has the last word.

bytes ─► header (jpeg_header) ─► libjpeg's view of the same, or refused ─► decoded, scaled

libjpeg-turbo scales by eighths while it decodes, for less than the whole costs.

Shapes: H height, W width, C channels.
"""

import simplejpeg
from PIL import Image

from service.errors import ImageError
from service.pixels import colour, formats, jpeg_header
from service.pixels.jpeg_header import CUT_OFF, Header

_SOS, _EOI = b"\xff\xda", b"\xff\xd9"
_MODES = {1: "L", 3: "RGB", 4: "CMYK"}

_MAX_PIXELS = 2**28
"""The largest phones make 200 million. At an eighth of their size they take 30 MB."""
_MAX_SCANNED_PIXELS = 2**31
"""Pixels times scans: each is a pass over the whole picture, and encoders write about 10, where a
small file could have thousands and keep a core busy for hours."""
_BLOCK_BYTES = 128
"""Coefficients of a block of 8 x 8 pixels, kept of all blocks where there are several scans."""
_COLUMN_BYTES = 128
"""What the decoder keeps for each column: some rows as they are decoded, before they are scaled."""
_CHUNK = 2**20


class Jpeg:
    """A JPEG whose header is read, and whose pixels are not decoded yet."""

    name = formats.JPEG.name
    animated = False
    """What follows the picture, as in an MPO, is another file."""
    transparent = False
    holds_lock = False
    bits = 8

    def __init__(self, data: bytes, header: Header | None = None) -> None:
        """Read the header, unless it is given.

        Raises:
            ImageError: It is broken, too large or of a rare kind, or can be read in two ways.
        """
        header = header or jpeg_header.read(data)
        self.usual = header.usual
        """Then it is scaled by eighths; else by halves, and cut before it is resized. Models were
        trained on such pixels, so neither changes. What has to be mended is not usual."""
        if header.junk:
            # Browsers pass over it; simplejpeg does not.
            data = jpeg_header.without(data, header.junk)
            header = jpeg_header.read(data)
        self._data, self._header = data, header
        self.width, self.height = header.width, header.height
        self.mode = _MODES[header.components]
        if self.width * self.height > _MAX_PIXELS:
            raise ImageError(
                f"the image has {self.width} x {self.height} pixels; at most {_MAX_PIXELS} are"
                " accepted: shrink it",
                kind="too_many_pixels",
            )
        try:
            height, width, *_ = simplejpeg.decode_jpeg_header(data, strict=False)
        # A KeyError is of a colour subsampling that libjpeg knows and simplejpeg has no name for.
        except (ValueError, KeyError) as error:
            raise ImageError(f"the image is broken: {error}") from error
        if (width, height) != (self.width, self.height):
            raise ImageError(
                f"the image is broken: its header can be read as {self.width} x {self.height}"
                f" pixels and as {width} x {height}"
            )
        if not header.one_scan:
            self._check_scans()

    def scaled(self, side: int, *, usual: bool) -> tuple[int, int]:
        """Return width and height of what is decoded, of which none is below `side` for that."""
        short = min(self.width, self.height)
        if usual:
            eighths = min(8 * (side - 1) // short + 1, 8)
        else:
            eighths = next((8 // n for n in (8, 4, 2) if short >= n * side), 8)
        return -(-self.width * eighths // 8), -(-self.height * eighths // 8)

    def peak_bytes(self, side: int) -> int:
        """Return what decoding takes at its highest, in bytes, with another copy of the file."""
        width, height = self.scaled(side, usual=False)
        # As it is decoded, and as Pillow's.
        pixels = width * height * (len(self.mode) + 4)
        pixels += colour.peak_bytes(min(width, height), side)
        kept = 0 if self._header.one_scan else self._coefficients_bytes()
        return pixels + kept + self.width * _COLUMN_BYTES + len(self._data)

    def _coefficients_bytes(self) -> int:
        """Return what the coefficients of all blocks take, which several scans bring in parts."""
        factors = [(each >> 4, each & 15) for each in self._header.factors]
        across, down = (8 * max(each) for each in zip(*factors, strict=True))
        units: int = -(-self.width // across) * -(-self.height // down)
        return units * sum(across * down for across, down in factors) * _BLOCK_BYTES

    def metadata(self) -> tuple[bytes, bytes, bytes]:
        """Return the blocks of EXIF, XMP and the colour profile, or nothing."""
        return self._header.exif, self._header.xmp, self._header.icc

    def decode(self, side: int) -> Image.Image:
        """Return the picture, L, RGB or CMYK, scaled so that no side is below `side` for that.

        A file that lacks its end marker alone is complete. What libjpeg mends without a loss, such
        as bytes between the coded data and the next marker, is mended.

        Raises:
            ImageError: It is broken, or ends before the picture does.
        """
        try:
            return self._decoded(self._data, side, strict=True)
        except ValueError as error:
            complaint = str(error)
        if self._data.find(_EOI, self._header.scan_at) < 0:
            if not self._complete():
                raise ImageError(CUT_OFF)
            try:
                return self._decoded(self._data + _EOI, side, strict=True)
            except ValueError:
                raise ImageError(CUT_OFF) from None
        if "premature end" in complaint.lower():
            raise ImageError(CUT_OFF)
        self.usual = False
        try:
            return self._decoded(self._data, side, strict=False)
        except ValueError as error:
            raise ImageError(f"the image is broken: {error}") from error

    def _decoded(self, data: bytes, side: int, *, strict: bool) -> Image.Image:
        width, height = self.scaled(side, usual=self.usual)
        whole = (width, height) == (self.width, self.height)
        pixels_HWC = simplejpeg.decode_jpeg(
            data,
            "GRAY" if self.mode == "L" else self.mode,
            # It takes the smallest scale that has so many; 0 asks for the whole.
            min_height=0 if whole else height,
            min_width=0 if whole else width,
            strict=strict,
        )
        if pixels_HWC.shape[:2] != (height, width):
            raise ValueError(f"{pixels_HWC.shape[1]} x {pixels_HWC.shape[0]} pixels came of it")
        if self.mode == "CMYK":
            # Photoshop stores it inverted, and so does everybody else.
            pixels_HWC = ~pixels_HWC
        return Image.frombuffer(self.mode, (width, height), pixels_HWC, "raw", self.mode, 0, 1)

    def _check_scans(self) -> None:
        # Within coded data this pair of bytes is the start of a scan. A part at a time: `count`
        # keeps the interpreter's lock.
        starts = range(self._header.scan_at, len(self._data), _CHUNK)
        scans = sum(self._data.count(_SOS, at, at + _CHUNK + 1) for at in starts)
        if scans * self.width * self.height > _MAX_SCANNED_PIXELS:
            raise ImageError(
                f"the image is decoded in {scans} passes, which is more work than is accepted;"
                " save it as a baseline (not progressive) JPEG",
                kind="too_many_pixels",
            )

    def _complete(self) -> bool:
        """Return whether the scans of a file without an end bring every bit of every component.

        A progressive file that breaks off between two scans is a coarse picture, and libjpeg does
        not complain of it.
        """
        if self._header.one_scan:
            return True
        missing: dict[int, list[int]] = {}
        at = self._header.scan_at
        while 0 <= at < len(self._data) - 4:
            end = at + 5 + 2 * self._data[at + 4]
            if end + 3 > len(self._data):
                return False
            # First and last coefficient, and the bits that are left out (ITU T.81, B.2.3).
            first, last, shifts = self._data[end : end + 3]
            for component in self._data[at + 5 : end : 2]:
                bits = missing.setdefault(component, [1] * 64)
                bits[first : last + 1] = [shifts & 15] * (last + 1 - first)
            at = self._data.find(_SOS, at + 2)
        complete = not any(any(bits) for bits in missing.values())
        return complete and len(missing) == self._header.components
