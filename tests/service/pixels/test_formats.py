"""What is read is told by content; what is not read is named, with a way to make it readable."""

import io

import numpy as np
import pytest
from PIL import Image

from service.errors import ImageError
from service.pixels import formats
from service.pixels.formats import HEIC, detect, of_suffix, readable_suffixes
from service.pixels.preprocessing import examine, load_square
from tests.service.pixels.pictures import encode, gradient

READ = {
    "JPEG": "JPEG", "PNG": "PNG", "WEBP": "WebP", "AVIF": "AVIF", "GIF": "GIF", "BMP": "BMP",
    "TIFF": "TIFF",
}  # fmt: skip


@pytest.mark.parametrize("kind", READ)
def test_every_readable_kind_gives_the_same_picture(kind):
    """Whatever it is saved as, and whatever its name says, the pixels are about the same."""
    data = encode(gradient(120, 80), kind)

    pixels, facts = examine(data, 48)

    assert (
        READ[kind] == detect(data).name == detect(data[: formats.HEAD_BYTES]).name == facts.format
    )
    assert (120, 80, 8, False) == (facts.width, facts.height, facts.bits, facts.animated)
    difference = np.abs(pixels.astype(int) - load_square(encode(gradient(120, 80)), 48))
    assert difference.mean() < 8 if kind == "GIF" else difference.mean() < 3


def test_heic_is_read_where_its_decoder_is():
    """IPhones write it: with pillow-heif it is a photo like any other, never turned by EXIF."""
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = gradient(120, 80)
    data = encode(picture, "HEIF", quality=95, exif=exif)

    pixels, facts = examine(data, 48)

    assert HEIC is detect(data)
    assert "HEIC" == facts.format
    # HEIF turns by a property of its own, which the decoder applies; EXIF only repeats it.
    assert np.abs(pixels.astype(int) - load_square(encode(picture), 48)).mean() < 4


def test_heic_is_named_where_its_decoder_is_not(monkeypatch):
    """The sentence says what it is, and both ways out; its suffixes are no photos' then."""
    monkeypatch.setattr(formats, "_plugins", lambda: frozenset(READ))
    readable_suffixes.cache_clear()
    formats.readable_names.cache_clear()
    data = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(400)
    try:
        with pytest.raises(ImageError, match=r"HEIC.*pillow-heif.*heif-convert") as caught:
            load_square(data, 64)
        assert "format" == caught.value.kind
        assert ".heic" not in readable_suffixes()
        assert ".avif" in readable_suffixes()
    finally:
        readable_suffixes.cache_clear()
        formats.readable_names.cache_clear()
    assert HEIC is of_suffix(".HEIC")


@pytest.mark.parametrize(
    ("head", "sentence"),
    [
        (b"", "empty"),
        (bytes(500), "a file of zeros.*copy broke off"),
        (b"<!doctype html><html>404</html>", "a web page.*fetch the photo again"),
        (b"\xef\xbb\xbf\n <HTML>", "a web page"),
        (b"%PDF-1.4 x", "a PDF document.*pdfimages"),
        (b"\0\5\x16\7" + bytes(80), "macOS"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isommp42" + bytes(99), "a video.*ffmpeg"),
        (b"\0\0\0\x18ftypcrx \0\0\0\0crx isom" + bytes(99), "raw picture.*export"),
        (b"RIFF\0\0\0\0AVI LIST", "a video"),
        (b"\xff\x0a" + bytes(99), "JPEG XL.*djxl"),
        (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(99), "JPEG 2000.*magick in.jp2"),
        (b"8BPS\0\1" + bytes(99), "Photoshop"),
        (b"<svg xmlns='x'/>", "SVG"),
        (b"PK\3\4" + bytes(99), "ZIP archive.*unpack"),
        ("사진이 아닙니다\n".encode(), "a text file"),
        (bytes(range(1, 200)), "no kind of picture that is known"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_picture_has_a_name_and_a_way_out(head, sentence):
    """A wrong file is called what it is, and the kinds that are read are listed."""
    with pytest.raises(ImageError, match=sentence) as caught:
        load_square(head, 64)

    if head:
        assert "JPEG, PNG, WebP" in str(caught.value)
        assert not detect(head).readable


def test_suffixes_are_those_of_what_is_read():
    """Any spelling of a photo's name is known; what is not read is known by name as well."""
    suffixes = readable_suffixes()

    assert {
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".webp",
        ".avif",
        ".tif",
        ".bmp",
        ".gif",
    } < set(suffixes)
    assert len(suffixes) == len(set(suffixes))
    assert "JPEG" == of_suffix(".JPE").name
    assert of_suffix(".nef") is formats.RAW
    assert of_suffix(".xyz") is None
    assert all(of_suffix(suffix).readable for suffix in suffixes)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "AVIF", "TIFF"])
def test_of_several_frames_the_first_is_taken_and_that_is_known(kind):
    """Animations and pages of every format are treated alike."""
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue", "lime")]
    options = {} if kind in ("GIF", "TIFF", "PNG") else {"quality": 95}
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)

    pixels, facts = examine(data, 16)

    assert facts.animated
    assert np.abs(pixels[8, 8].astype(int) - (255, 0, 0)).max() <= 6
    assert not examine(encode(frames[0], kind), 16)[1].animated


def test_a_raw_picture_is_not_taken_for_its_preview():
    """The first directory of a DNG is a thumbnail that Pillow would show."""
    buffer = io.BytesIO()
    gradient(64, 48).save(buffer, "TIFF", tiffinfo={254: 1})

    with pytest.raises(ImageError, match="a camera's raw picture"):
        load_square(buffer.getvalue(), 32)
