"""Files that are made to cost more than a picture: each is bounded before it is decoded."""

import struct
import time
import zlib

import pytest

from service.errors import ImageError
from service.pixels.budget import Budget
from service.pixels.formats import TIFF
from service.pixels.preprocessing import load_square
from service.pixels.raster import Raster
from tests.service.pixels.pictures import chunk, encode, gradient, png, tiff


def refused(data: bytes, sentence: str, *, within_s: float = 0.5) -> None:
    """Check that a file is refused with a sentence, and soon."""
    start_s = time.perf_counter()
    with pytest.raises(ImageError, match=sentence):
        load_square(data, 64)
    assert time.perf_counter() - start_s < within_s


def test_a_png_of_a_million_chunks_is_refused():
    """Each costs microseconds of Python: 16 MiB of them would keep a core for seconds."""
    refused(png(64, 64, before=chunk(b"teSt", b"") * 1_000_000), "more parts than any program")


def test_a_png_whose_pixels_lie_in_tiny_chunks_is_refused():
    """Also behind the header the number of parts is bounded."""
    raw = zlib.compressobj(0)
    rows = raw.compress(bytes(1 + 3 * 600) * 600) + raw.flush()
    header = struct.pack(">IIBBBBB", 600, 600, 8, 2, 0, 0, 0)
    parts = b"".join(chunk(b"IDAT", rows[at : at + 1]) for at in range(len(rows)))
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + parts + chunk(b"IEND", b"")

    refused(data, "more parts than any program")


def test_chunks_as_programs_write_them_are_read():
    """Libpng writes 8 kB at a time, some others 1 kB."""
    rows = zlib.compress(bytes(range(251)) * 6000, 0)[: 1 << 21]
    header = struct.pack(">IIBBBBB", 750, 2000, 8, 0, 0, 0, 0)
    for size in (8192, 1024):
        parts = b"".join(chunk(b"IDAT", rows[at : at + size]) for at in range(0, len(rows), size))
        data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + parts + chunk(b"IEND", b"")
        with pytest.raises(ImageError, match="broken") as caught:
            load_square(data, 64)  # its filters are nonsense, and that is what is said
        assert "parts" not in str(caught.value)


def test_a_png_of_two_sizes_is_refused():
    """Of two headers Pillow takes the last, and others the first."""
    other = struct.pack(">IIBBBBB", 8000, 8000, 8, 6, 0, 0, 0)

    refused(png(64, 64, before=chunk(b"IHDR", other)), "two sizes|broken")


def test_a_gif_of_endless_comments_is_refused():
    """Comments lie before the picture, in parts of 255 bytes and less."""
    data = encode(gradient(64, 64).convert("P"), "GIF")
    at = data.index(b"\x2c", 13)
    head = data[:at].split(b"!")[0]

    refused(head + b"!\xfe" + b"\1x" * 2_000_000 + b"\0" + data[at:], "more parts than any program")


def test_a_tiff_of_endless_strips_is_refused():
    """Pillow would make a list of them that is a hundred times as large as the file."""
    tags = [(256, 4, 1, 64), (257, 4, 1, 64), (258, 3, 1, 8), (262, 3, 1, 1)]
    refused(tiff(*tags, (273, 4, 4_000_000, 8), pixels=bytes(2**20)), "tag 273 has 4000000 numbers")


def test_a_tiff_whose_tile_is_larger_than_its_picture_takes_what_the_tile_takes():
    """A tile is decoded whole, however little of it is shown."""
    tags = [
        (256, 4, 1, 64), (257, 4, 1, 64), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1),
        (277, 3, 1, 1), (322, 4, 1, 40_000), (323, 4, 1, 40_000), (324, 4, 1, 8), (325, 4, 1, 99),
    ]  # fmt: skip
    assert Raster(tiff(*tags, pixels=zlib.compress(bytes(99))), TIFF).peak_bytes(64) > 40_000**2


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"II+\0\x08\0\0\0" + bytes(40), "BigTIFF"),
        (encode(gradient(64, 64), "TIFF")[:60], "cut off|broken"),
        (encode(gradient(64, 64).convert("F"), "TIFF"), "pixels of a kind that is not shown"),
        (encode(gradient(64, 64).convert("LAB"), "TIFF"), "pixels of a kind that is not shown"),
        (encode(gradient(64, 64), "WEBP")[:200], "WebP is broken"),
        (encode(gradient(64, 64), "AVIF")[:300], "AVIF is broken"),
        (encode(gradient(64, 64), "GIF")[:300], "GIF is broken"),
        (encode(gradient(64, 64), "BMP")[:300], "BMP is broken"),
    ],
    ids=["BigTIFF", "cut TIFF", "float", "LAB", "cut WebP", "cut AVIF", "cut GIF", "cut BMP"],
)
def test_what_is_broken_or_rare_within_a_format_has_a_sentence(data, sentence):
    """Whatever Pillow raises, the caller gets an ImageError that names the format."""
    refused(data, sentence)


def test_what_pillow_makes_nothing_of_is_said_alike_each_time():
    """The same bytes get the same sentence, and none names an object in memory."""
    damaged = bytearray(png(64, 64, before=chunk(b"tEXt", b"a\0b")))
    damaged[8 + 25 + 8] ^= 1  # in the text, so that its checksum is wrong

    refused(bytes(damaged), "this PNG is broken: its header .* is damaged, or of a rare kind$")


def test_a_compressed_bmp_is_refused():
    """Pillow decodes it in Python, a run at a time."""
    rows = b"\x40\1\0\0" * 64 + b"\0\1"
    info = struct.pack("<IiiHHIIiiII", 40, 64, 64, 1, 8, 1, len(rows), 0, 0, 256, 0)
    start = 14 + 40 + 1024
    data = struct.pack("<2sIHHI", b"BM", start + len(rows), 0, 0, start) + info + bytes(1024) + rows

    refused(data, "compressed.*save it as PNG")


def test_a_png_of_200_kb_that_takes_400_mb_is_refused_by_its_header():
    """What it would take is known before a pixel is decoded; the sentence says how to shrink."""
    data = png(7071, 7071)
    assert len(data) < 300_000
    with pytest.raises(
        ImageError, match=r"RGBA|PNG of 7071 x 7071.*shrink it to (\d+) x"
    ) as caught:
        load_square(data, 256, budget=Budget(64 * 2**20))
    assert "too_much_memory" == caught.value.kind
    side = int(str(caught.value).split("shrink it to ")[1].split()[0])
    assert 1000 < side < 7071
    load_square(png(side, side), 256, budget=Budget(64 * 2**20))
