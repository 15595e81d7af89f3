"""What a file is, told by its first bytes, and whether it can be read; names are never trusted.

This is the one place that says which pictures are read. What is not read has a name all the same,
and a way to make a picture of it that is.
"""

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

HEAD_BYTES = 256
"""As much of a file as `detect` looks at."""

MAX_BYTES = 128 * 2**20
"""Of an encoded image; more is neither read nor decoded."""

_TO_JPEG = "save it as JPEG, for example with ImageMagick: magick in{suffix} out.jpg"
_LOST = "fetch the photo again"


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """A kind of file."""

    name: str
    """For people, such as `JPEG` or `a PDF document`."""
    suffixes: tuple[str, ...] = ()
    """How such files end, in lower case; the usual one first."""
    plugin: str = ""
    """Pillow's name of what reads it. Empty: nothing here does."""
    advice: str = _TO_JPEG
    """What to do with a file that cannot be read."""

    @property
    def readable(self) -> bool:
        """Return whether such files can be read here."""
        return self.plugin in _plugins()

    def refusal(self) -> str:
        """Return why such a file is not read, and what to do."""
        suffix = self.suffixes[0] if self.suffixes else ""
        advice = self.advice.format(suffix=suffix)
        return f"this is {self.name}, which is not read here ({readable_names()} are); {advice}"


JPEG = Format(
    name="JPEG",
    suffixes=(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi", ".pjpeg", ".pjp", ".mpo"),
    plugin="JPEG",
)
PNG = Format(name="PNG", suffixes=(".png", ".apng"), plugin="PNG")
WEBP = Format(name="WebP", suffixes=(".webp",), plugin="WEBP")
GIF = Format(name="GIF", suffixes=(".gif",), plugin="GIF")
BMP = Format(name="BMP", suffixes=(".bmp", ".dib"), plugin="BMP")
TIFF = Format(name="TIFF", suffixes=(".tif", ".tiff"), plugin="TIFF")
AVIF = Format(name="AVIF", suffixes=(".avif", ".avifs"), plugin="AVIF")
HEIC = Format(
    name="HEIC",
    suffixes=(".heic", ".heif", ".hif"),
    plugin="HEIF",
    advice="install pillow-heif (the extra `heif`), or save it as JPEG: heif-convert in{suffix}",
)
_PICTURES = (JPEG, PNG, WEBP, AVIF, HEIC, GIF, BMP, TIFF)

EMPTY = Format(name="an empty file", advice=_LOST)
RAW = Format(
    name="a camera's raw picture",
    suffixes=(".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".pef", ".srw"),
    advice="export it as JPEG from the camera's program, darktable or RawTherapee",
)
_JXL = Format(name="JPEG XL", suffixes=(".jxl",), advice="save it as JPEG: djxl in.jxl out.jpg")
_JP2 = Format(name="JPEG 2000", suffixes=(".jp2", ".j2k", ".jpx", ".jpf"))
_PDF = Format(
    name="a PDF document", suffixes=(".pdf",), advice="take its pictures out: pdfimages -j in.pdf p"
)
_VIDEO = Format(
    name="a video",
    suffixes=(".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".3gp"),
    advice="take a frame out of it: ffmpeg -i in.mp4 -frames:v 1 out.jpg",
)
_PSD = Format(name="a Photoshop file", suffixes=(".psd", ".psb"), advice="export it as JPEG")
_SVG = Format(name="an SVG drawing", suffixes=(".svg",), advice="export it as PNG")
_ICO = Format(name="an icon", suffixes=(".ico", ".cur"))
_ZIP = Format(name="a ZIP archive", suffixes=(".zip",), advice="unpack it first")
_WEB_PAGE = Format(name="a web page", suffixes=(".html", ".htm"), advice=_LOST)
_LFS = Format(name="a Git LFS pointer", advice="fetch the file itself: git lfs pull")
_MAC = Format(name="a macOS side file", advice="delete it; the photo beside it has no ._ before it")
_ZEROS = Format(name="a file of zeros", advice=f"its copy broke off; {_LOST}")
_TEXT = Format(name="a text file", suffixes=(".txt",), advice=_LOST)
UNKNOWN = Format(name="no kind of picture that is known", advice=_LOST)

_FIRST_BYTES = (
    (b"\xff\xd8", JPEG), (b"\x89PNG\r\n\x1a\n", PNG), (b"GIF87a", GIF), (b"GIF89a", GIF),
    (b"II*\0", TIFF), (b"MM\0*", TIFF), (b"II+\0", TIFF), (b"MM\0+", TIFF), (b"BM", BMP),
    (b"\xff\x0a", _JXL), (b"\0\0\0\x0cJXL ", _JXL), (b"\0\0\0\x0cjP  ", _JP2),
    (b"\xff\x4f\xff\x51", _JP2), (b"%PDF", _PDF), (b"8BPS", _PSD), (b"PK\3\4", _ZIP),
    (b"\0\0\1\0", _ICO), (b"\x1aE\xdf\xa3", _VIDEO), (b"FUJIFILMCCD-RAW", RAW), (b"IIRO", RAW),
    (b"IIU\0", RAW), (b"\0\5\x16\7", _MAC), (b"version https://git-lfs", _LFS),
)  # fmt: skip
_FIRST_WORDS = (
    (b"<!doctype html", _WEB_PAGE), (b"<html", _WEB_PAGE), (b"<svg", _SVG), (b"<?xml", _SVG),
)  # fmt: skip
_BRANDS = {
    b"avif": AVIF, b"avis": AVIF, b"heic": HEIC, b"heix": HEIC, b"heim": HEIC, b"heis": HEIC,
    b"hevc": HEIC, b"hevx": HEIC, b"mif1": HEIC, b"msf1": HEIC, b"crx ": RAW,
}  # fmt: skip
"""The brands of an ISO base media file (ISO 23008-12, 10.2), and what has them."""

_NAMED = (*_PICTURES, RAW, _JXL, _JP2, _PDF, _VIDEO, _PSD, _SVG, _ICO)


def detect(data: bytes) -> Format:
    """Return what a file is, by its first bytes; `HEAD_BYTES` of them are enough."""
    # Nearly all are photos from a camera, and this is asked for each.
    if data[:2] == b"\xff\xd8":
        return JPEG
    head = data[:HEAD_BYTES]
    if head[:4] == b"RIFF":
        return {b"WEBP": WEBP, b"AVI ": _VIDEO}.get(head[8:12], UNKNOWN)
    if head[4:8] == b"ftyp":
        return _iso(head)
    for start, kind in _FIRST_BYTES:
        if head.startswith(start):
            return kind
    words = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for start, kind in _FIRST_WORDS:
        if words.startswith(start):
            return kind
    return _shapeless(head)


def of_suffix(suffix: str) -> Format | None:
    """Return what files with this suffix, such as `.heic`, should be; None if it tells nothing."""
    return _by_suffix().get(suffix.lower())


@cache
def readable_suffixes() -> tuple[str, ...]:
    """Return how the files end that can be read here, in lower case."""
    return tuple(suffix for kind in _PICTURES if kind.readable for suffix in kind.suffixes)


@cache
def readable_names() -> str:
    """Return the kinds that can be read here, for people."""
    *names, last = (kind.name for kind in _PICTURES if kind.readable)
    return f"{', '.join(names)} and {last}"


@cache
def _by_suffix() -> dict[str, Format]:
    return {suffix: kind for kind in reversed(_NAMED) for suffix in kind.suffixes}


@cache
def _plugins() -> frozenset[str]:
    """Return what can be read here: two kinds depend on what is installed."""
    found = {"JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"}
    # Whoever only calls a service has no Pillow.
    if find_spec("PIL") and find_spec("PIL._avif"):
        found.add("AVIF")
    if find_spec("pillow_heif"):
        found.add("HEIF")
    return frozenset(found)


def _iso(head: bytes) -> Format:
    """Return what an ISO base media file is: its brand, or those that it is compatible with."""
    end = min(int.from_bytes(head[:4]), len(head))
    brands = [head[8:12], *(head[at : at + 4] for at in range(16, end - 3, 4))]
    # `mif1` says no more than that it is a picture.
    for brand in sorted(brands[:32], key=lambda brand: brand in (b"mif1", b"msf1")):
        if brand in _BRANDS:
            return _BRANDS[brand]
    return _VIDEO


def _shapeless(head: bytes) -> Format:
    if not head:
        return EMPTY
    if not head.strip(b"\0"):
        return _ZEROS
    # Of the bytes below a space, text has only those that end lines and set columns.
    return UNKNOWN if any(byte < 32 and byte not in b"\t\r\n" for byte in head) else _TEXT
