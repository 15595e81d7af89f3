"""PNG, WebP, AVIF, HEIC, GIF, BMP and TIFF, by Pillow: opened, bounded, loaded.

bytes ─► opened (headers only, bounded) ─► estimate ─► load, the first frame

Pillow takes headers apart in Python: a file of a million tiny parts would keep a core and the
interpreter's lock for seconds. So a file may be read in so many pieces and no more.
"""

import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,  # noqa: F401 - each import makes Pillow know a format
    GifImagePlugin,  # noqa: F401
    Image,
    PngImagePlugin,
    TiffImagePlugin,  # noqa: F401
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)

from service.errors import ImageError
from service.pixels import colour, formats
from service.pixels.formats import HEIC, PNG, TIFF, Format

# Pillow warns of what it mends and of bombs; the bounds here are tighter than its own.
warnings.filterwarnings("ignore", module=r"PIL\.")
# One thread decodes a picture; there are as many pictures at a time as there are cores.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1
# Of texts that are compressed 1,000 times.
PngImagePlugin.MAX_TEXT_MEMORY = 8 * 2**20

_PIECES = 1024
_PIECE_BYTES = 256
"""The header is read in 1,024 pieces at most, and the pixels in as many and one for each 256 bytes:
PNGs are written in parts of 8 kB and more, each of which takes four."""
_ORIENTATION, _BITS, _SAMPLES, _ROWS_PER_STRIP = 274, 258, 277, 278
_TILE_WIDTH, _TILE_LENGTH = 322, 323
_MAX_TAG_VALUES = 2**17
"""Numbers in a tag of a TIFF: a strip for each row, or a palette."""

_DECODER_BYTES = {"WEBP": 15, "AVIF": 14, "HEIF": 14, "GIF": 1}
"""What a decoder keeps for each pixel beside the picture: libwebp two canvases and a copy, libavif
and libheif their planes and a copy. Measured, with two bytes more for what was not."""
_HELD_BYTES = 8
"""What of that is still kept while the picture is converted, at most."""
_BUFFERS_BYTES = 2 * 2**20
_MODE_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2}

_FEW_PIXELS = 2_100_000
"""Full HD. Decoding more keeps the interpreter's lock for long, while every other thread stands:
WebP, AVIF and HEIC hand over all pixels in one copy, at 2 to 4 ms for each million. The others make
room for the picture, and free it: 15 ms for 49 million, and 50 where threads wait for a core."""


class _Pieces(io.BytesIO):
    """A file in memory that is read in a bounded number of pieces."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._left = _PIECES

    def allow(self, pieces: int) -> None:
        """Let it be read in so many pieces from now on."""
        self._left = pieces

    def read(self, size: int | None = -1, /) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise ImageError(
                "the image is broken: it is made of more parts than any program writes; save it"
                " again"
            )
        return super().read(size)


class Raster:
    """A picture that is opened, and not decoded yet."""

    usual = False

    def __init__(self, data: bytes, kind: Format) -> None:
        """Read the header.

        Raises:
            ImageError: It is broken, too large, or of a kind within its format that is not read.
        """
        self._kind = kind
        self._num_bytes = len(data)
        if kind is TIFF:
            _check_tags(data)
        elif kind is HEIC:
            _register_heif()
        with self._broken():
            self._file = _Pieces(data)
            self._image = Image.open(self._file, formats=(kind.plugin,))
        self.name, self.mode = kind.name, self._image.mode
        self.width, self.height = self._image.size
        # Pillow makes 8 bits of a PNG's 16, unless it is grey.
        self.bits = 16 if self.mode.startswith("I") or (kind is PNG and data[24] == 16) else 8
        self._check(data)

    def _check(self, data: bytes) -> None:
        if self._kind is PNG and self._image.size != struct.unpack_from(">II", data, 16):
            raise ImageError("this PNG is broken: it has two sizes")
        tile: Any = self._image.tile
        if tile and tile[0][0] == "bmp_rle":
            # Decoded in Python, a run at a time.
            raise ImageError("this BMP is compressed (RLE); save it as PNG", kind="format")

    @property
    def holds_lock(self) -> bool:
        """Return whether decoding it keeps the interpreter's lock for long."""
        return self.width * self.height > _FEW_PIXELS

    def peak_bytes(self, side: int) -> int:
        """Return what decoding takes at its highest, in bytes, with another copy of the file."""
        pixels = self.width * self.height
        decoder = pixels * _DECODER_BYTES.get(self._kind.plugin, 0)
        if self._kind is TIFF:
            decoder = self._unit_bytes()
        short = min(self.width, self.height)
        after = min(decoder, _HELD_BYTES * pixels) + colour.peak_bytes(short, side)
        mine = pixels * _MODE_BYTES.get(self.mode, 4)
        return mine + max(decoder, after) + self._num_bytes + _BUFFERS_BYTES

    def _unit_bytes(self) -> int:
        """Return how large a tile or strip of a TIFF is, which is decoded at a time."""
        tags = cast(Any, self._image).tag_v2
        width = tags.get(_TILE_WIDTH, self.width)
        height = tags.get(_TILE_LENGTH) or min(tags.get(_ROWS_PER_STRIP, self.height), self.height)
        return int(width * height * tags.get(_SAMPLES, 1) * max(tags.get(_BITS, (8,))) / 8)

    def decode(self, side: int) -> Image.Image:  # noqa: ARG002 - whole
        """Return the first frame, in whichever mode it is; then there is `metadata`, too.

        Raises:
            ImageError: It is broken, or ends before the picture does.
        """
        self._file.allow(_PIECES + self._num_bytes // _PIECE_BYTES)
        with self._broken():
            self._image.load()
        if self._image.size != (self.width, self.height):
            raise ImageError(f"this {self.name} is broken: it has two sizes")
        return self._image

    def metadata(self) -> tuple[bytes, bytes, bytes]:
        """Return the blocks of EXIF, XMP and the colour profile, or nothing."""
        info = self._image.info
        exif, xmp = info.get("exif"), info.get("XML:com.adobe.xmp") or info.get("xmp") or b""
        if exif is None and "Raw profile type exif" in info:
            exif = _unhexed(info["Raw profile type exif"])
        if exif is None and self._kind is TIFF:
            exif = _as_exif(cast(Any, self._image).tag_v2.get(_ORIENTATION))
        if isinstance(xmp, str):
            xmp = xmp.encode()
        return exif or b"", xmp, info.get("icc_profile") or b""

    @property
    def animated(self) -> bool:
        """Return whether there are more frames or pages than the first, of a decoded picture."""
        try:
            return bool(getattr(self._image, "is_animated", False))
        except Exception:  # what follows the first frame may be broken
            return True

    @property
    def transparent(self) -> bool:
        """Return whether no pixel of a decoded picture is to be seen."""
        if not self._image.has_transparency_data:
            return False
        rows = (self._image.crop((0, y, self.width, y + 1)) for y in range(self.height))
        return not any(row.convert("RGBA").getchannel("A").getbbox() for row in rows)

    @contextmanager
    def _broken(self) -> Iterator[None]:
        """Say in one way what Pillow's plugins say in many: they raise almost anything."""
        try:
            yield
        except ImageError:
            raise
        except Image.DecompressionBombError as error:
            raise ImageError(f"{error}: shrink it", kind="too_many_pixels") from error
        except Exception as error:
            why = str(error) or type(error).__name__
            if isinstance(error, UnidentifiedImageError):  # which names an object in memory
                why = "its header or a part before the pixels is damaged, or of a rare kind"
            raise ImageError(f"this {self._kind.name} is broken: {why}") from error


def _register_heif() -> None:
    """Make Pillow know HEIC, of which it has no part itself."""
    if not HEIC.readable:
        raise ImageError(HEIC.refusal(), kind="format")
    import pillow_heif

    if "HEIF" not in Image.OPEN:
        pillow_heif.register_heif_opener(decode_threads=1, thumbnails=False)


def _unhexed(text: str) -> bytes:
    """Return the EXIF block that ImageMagick writes into a PNG's text, as hexadecimal digits."""
    try:
        return bytes.fromhex("".join(text.split("\n")[3:]))
    except ValueError:
        return b""


def _as_exif(orientation: object) -> bytes:
    """Return an orientation as the EXIF block that says it; nothing if it is none."""
    if not isinstance(orientation, int) or not 0 < orientation < 9:
        return b""
    return b"MM\0*\0\0\0\x08\0\1" + struct.pack(">HHIHxx", _ORIENTATION, 3, 1, orientation)


def _check_tags(data: bytes) -> None:
    """Refuse a TIFF by its first directory before Pillow makes lists of what it says.

    Raises:
        ImageError: It is broken, has more numbers than a picture needs, or is a raw picture, whose
            first directory is but a preview.
    """
    order = "<" if data[:1] == b"I" else ">"
    if data[2:4] != (b"*\0" if order == "<" else b"\0*"):
        raise ImageError("this is a BigTIFF; save it as TIFF or PNG", kind="format")
    entry = struct.Struct(f"{order}HHI")
    try:
        (at,) = struct.unpack_from(f"{order}I", data, 4)
        (count,) = struct.unpack_from(f"{order}H", data, at)
        for position in range(at + 2, at + 2 + 12 * count, 12):
            tag, kind, values = entry.unpack_from(data, position)
            if kind not in (1, 2, 6, 7) and values > _MAX_TAG_VALUES:
                raise ImageError(f"this TIFF is broken: its tag {tag} has {values} numbers")
            # NewSubfileType: a smaller version of another picture in the file (TIFF 6.0, p. 36).
            if tag == 254 and struct.unpack_from(f"{order}I", data, position + 8)[0] & 1:
                raise ImageError(formats.RAW.refusal(), kind="format")
    except struct.error:
        raise ImageError("this TIFF is cut off: fetch it again") from None
