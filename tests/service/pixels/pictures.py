"""Pictures for tests: ordinary ones, and ones put together byte by byte."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def encode(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    """Return the picture as the bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gradient(width: int, height: int) -> Image.Image:
    """Return a picture in which every direction differs: red grows right, green grows down."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 255 - x], -1).astype(np.uint8))


def textured(width: int, height: int) -> Image.Image:
    """Return a picture with something in it at every scale down to 4 pixels."""
    noise = np.random.default_rng(0).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    return Image.blend(gradient(width, height), Image.fromarray(noise).resize((width, height)), 0.3)


def segments(jpeg: bytes) -> tuple[list[bytes], bytes]:
    """Return the segments of a JPEG before its first scan, and all from there on."""
    at, found = 2, []
    while jpeg[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(jpeg[at + 2 : at + 4])
        found.append(jpeg[at:end])
        at = end
    return found, jpeg[at:]


def segment(kind: int, body: bytes) -> bytes:
    """Return a segment of a JPEG."""
    return bytes((0xFF, kind)) + struct.pack(">H", len(body) + 2) + body


def resized_header(jpeg: bytes, width: int, height: int) -> bytes:
    """Return a JPEG that says another size than it has."""
    before, scan = segments(jpeg)
    size = struct.pack(">HH", height, width)
    return b"\xff\xd8" + b"".join(
        each[:5] + size + each[9:] if each[1] in (0xC0, 0xC1, 0xC2) else each for each in before
    ) + scan  # fmt: skip


def solid_jpeg(width: int, height: int) -> bytes:
    """Return a grey baseline JPEG of any size within milliseconds; sides are multiples of 16.

    In the usual tables a block like the one before it is 6 bits of brightness and 4 bits of each
    colour, so that four are 7 bytes.
    """
    four = int("00101000000000" * 4, 2).to_bytes(7)
    small = encode(Image.new("RGB", (16, 16), (128, 128, 128)), "JPEG", subsampling=0)
    before, scan = segments(resized_header(small, width, height))
    head = scan[: 2 + int.from_bytes(scan[2:4])]
    return b"\xff\xd8" + b"".join(before) + head + four * (width * height // 256) + b"\xff\xd9"


def lying_jpeg(width: int, height: int) -> bytes:
    """Return a JPEG that says 100 x 100 to a reader which gives RSTn a length; libjpeg does not."""
    real = resized_header(encode(gradient(64, 64), "JPEG"), width, height)[2:]
    decoy = b"\xff\xc0\x00\x11\x08\x00\x64\x00\x64\x03\x01\x22\x00\x02\x11\x01\x03\x11\x01"
    decoy += b"\xff\xda\x00\x0c\x03\x01\x00\x02"
    start = b"\xff\xd8\xff\xd0\xff\xe0\xff\xff"
    body = start + bytes(65508 - len(start)) + decoy
    return body + bytes(6 + 65535 - len(body)) + real


def chunk(kind: bytes, body: bytes) -> bytes:
    """Return a chunk of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    width: int, height: int, *, colour: int = 6, bits: int = 8, interlaced: bool = False,
    before: bytes = b"",
) -> bytes:  # fmt: skip
    """Return a PNG of zeros, which is small however large the picture is.

    Args:
        width: In pixels.
        height: In pixels.
        colour: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGBA.
        bits: Of each channel.
        interlaced: Whether it is.
        before: Chunks before the pixels.
    """
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    passes = [(0, 0, 1, 1)]
    if interlaced:
        passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4),
                  (1, 0, 2, 2), (0, 1, 1, 2)]  # fmt: skip
    packer, rows = zlib.compressobj(), b""
    for x, y, across, down in passes:
        row = bytes(1 + -(-(-(-(width - x) // across) * channels * bits) // 8))
        rows += b"".join(packer.compress(row) for _ in range(-(-(height - y) // down)))
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, int(interlaced))
    palette = chunk(b"PLTE", bytes(768)) if colour == 3 else b""
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + palette + before
        + chunk(b"IDAT", rows + packer.flush()) + chunk(b"IEND", b"")
    )  # fmt: skip


def tiff(*tags: tuple[int, int, int, int], pixels: bytes = b"") -> bytes:
    """Return a TIFF of one directory: tags with their kind, number of values, and value.

    Pixels lie from 8 on; the directory follows them.
    """
    entries = b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags))
    head = b"II*\0" + struct.pack("<I", 8 + len(pixels))
    return head + pixels + struct.pack("<H", len(tags)) + entries + bytes(4)


_PRIMARIES = {
    "Display P3": ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189),
                   (0.15710, 0.06657, 0.78407)),
    "Adobe RGB": ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087),
                  (0.14919, 0.06322, 0.74457)),
    "sRGB": ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708),
             (0.14307, 0.06061, 0.71410)),
}  # fmt: skip
"""Red, green and blue as XYZ, adapted to D50, as profiles have them."""


def profile(name: str) -> bytes:
    """Return an ICC profile of primaries and a curve."""
    srgb_curve = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    curve = _numbers(b"para", *((2.19921875,) if name == "Adobe RGB" else srgb_curve))
    if name != "Adobe RGB":
        curve = curve[:8] + b"\0\3\0\0" + curve[8:]
    else:
        curve = curve[:8] + b"\0\0\0\0" + curve[8:]
    tags = {b"wtpt": _numbers(b"XYZ ", 0.9642, 1.0, 0.8249)}
    for channel, primary in zip((b"r", b"g", b"b"), _PRIMARIES[name], strict=True):
        tags[channel + b"XYZ"] = _numbers(b"XYZ ", *primary)
        tags[channel + b"TRC"] = curve
    return _profile(b"RGB ", b"XYZ ", tags)


def ink_profile() -> bytes:
    """Return an ICC profile of four inks, of which each takes its colour away and black all."""
    corners = b""
    for inks in np.ndindex(2, 2, 2, 2):
        red, green, blue = ((1 - ink) * (1 - inks[3]) for ink in inks[:3])
        corners += bytes(_lab(red, green, blue))
    straight = bytes(range(256))
    one = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    table = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + one + straight * 4 + corners + straight * 3
    return _profile(b"CMYK", b"Lab ", {b"A2B0": table}, kind=b"prtr")


def _lab(red: float, green: float, blue: float) -> tuple[int, int, int]:
    """Return L, a and b of an sRGB colour that is all or nothing, as bytes."""
    white = (0.9642, 1.0, 0.8249)
    xyz = np.array(_PRIMARIES["sRGB"]).T @ np.array([red, green, blue])
    f = [v ** (1 / 3) if v > 0.008856 else 7.787 * v + 16 / 116 for v in xyz / white]
    lightness, a, b = 116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])
    return round(lightness * 2.55), *(min(max(round(v) + 128, 0), 255) for v in (a, b))


def _numbers(kind: bytes, *values: float) -> bytes:
    return kind + bytes(4) + b"".join(struct.pack(">i", round(v * 65536)) for v in values)


def _profile(space: bytes, pcs: bytes, tags: dict[bytes, bytes], kind: bytes = b"mntr") -> bytes:
    table, body = b"", b""
    start = 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    illuminant = struct.pack(">3i", 63190, 65536, 54061)
    # Size, maker, version, class, spaces; date; signature, platform, flags, device, intent (0).
    head = struct.pack(">I4sI4s4s4s", start + len(body), b"lcms", 0x04200000, kind, space, pcs)
    head += bytes(12) + b"acsp" + bytes(28) + illuminant + bytes(48)
    return head + struct.pack(">I", len(tags)) + table + body
