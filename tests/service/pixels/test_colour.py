"""Colours as a screen shows them, whatever they were stored as; sRGB keeps its very pixels."""

import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from service.pixels import colour
from service.pixels.preprocessing import examine, load_square
from tests.service.pixels.pictures import (
    encode,
    gradient,
    ink_profile,
    png,
    profile,
    segments,
    textured,
)


def converted(image: Image.Image, icc: bytes, mode: str) -> Image.Image:
    """Return an sRGB picture with the numbers that another profile has for its colours."""
    srgb = ImageCms.createProfile("sRGB")
    there = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    found = ImageCms.profileToProfile(image, srgb, there, outputMode=mode)
    found.info.clear()
    return found


@pytest.mark.parametrize("name", ["Display P3", "Adobe RGB"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_a_wide_gamut_looks_like_the_srgb_picture(name, kind):
    """Phones and cameras store other numbers for the same colours."""
    soft = Image.blend(gradient(96, 64), Image.new("RGB", (96, 64), (128, 128, 128)), 0.5)
    icc = profile(name)
    options = {} if kind in ("PNG", "TIFF") else {"quality": 100}
    data = encode(converted(soft, icc, "RGB"), kind, icc_profile=icc, **options)

    pixels, facts = examine(data, 48)

    wanted = load_square(encode(soft), 48)
    plain = load_square(encode(converted(soft, icc, "RGB")), 48)
    assert facts.profile
    assert np.abs(pixels.astype(int) - wanted).mean() < 2
    assert np.abs(plain.astype(int) - wanted).mean() > 3  # what it was before


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
@pytest.mark.parametrize(
    "icc",
    [
        profile("sRGB"),
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        bytes(200),
        profile("Display P3")[:100],
        ink_profile(),
        b"x" * 5_000_000,
    ],
    ids=["sRGB", "lcms's sRGB", "zeros", "cut", "of inks", "huge"],
)
def test_srgb_and_broken_profiles_change_no_pixel(kind, icc):
    """Ordinary photos keep the very pixels that models were trained on."""
    picture = textured(100, 80)
    pixels, facts = examine(encode(picture, kind, icc_profile=icc), 48)

    assert np.array_equal(pixels, load_square(encode(picture, kind), 48))
    assert not facts.profile


def test_inks_without_a_profile_are_what_pillow_wrote():
    """CMYK with and without Adobe's marker looks like the picture it was made of."""
    picture = gradient(96, 96)
    data = encode(picture.convert("CMYK"), "JPEG", quality=95)
    before, rest = segments(data)
    bare = b"\xff\xd8" + b"".join(each for each in before if each[1] != 0xEE) + rest
    assert len(bare) < len(data)

    for each in (data, bare):
        difference = np.abs(load_square(each, 64).astype(int) - load_square(encode(picture), 64))
        assert difference.mean() < 3


def test_ycck_looks_like_the_picture():
    """Photoshop's other way to store inks: as brightness and colour, and black."""
    picture = gradient(96, 96)
    inverted = Image.fromarray(255 - np.asarray(picture)).convert("YCbCr")
    stored = np.dstack([np.asarray(inverted), np.full((96, 96), 255, np.uint8)])
    # Pillow inverts what it writes.
    data = encode(Image.fromarray(255 - stored, "CMYK"), "JPEG", quality=95)
    at = data.index(b"Adobe") + 11
    data = data[:at] + b"\2" + data[at + 1 :]

    difference = np.abs(load_square(data, 64).astype(int) - load_square(encode(picture), 64))
    assert difference.mean() < 3


def test_a_profile_of_inks_is_followed():
    """Print files bring one; without it they look too bright."""
    icc = ink_profile()
    inks = Image.new("CMYK", (64, 64), (255, 255, 0, 0))  # blue
    pixels, facts = examine(encode(inks, "JPEG", quality=95, icc_profile=icc), 16)

    assert ("CMYK", True) == (facts.mode, facts.profile)
    assert np.abs(pixels[8, 8].astype(int) - (0, 0, 255)).max() < 12


def test_profiles_are_taken_apart_once():
    """A million photos of one camera cost one transform."""
    icc = profile("Display P3")
    first = colour.transform(icc, "RGB")

    assert first is colour.transform(bytes(bytearray(icc)), "RGB")
    for number in range(100):
        colour.transform(icc + bytes(number), "RGB")
    assert len(colour._known) <= 32


@pytest.mark.parametrize("transparent", [True, False])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_a_picture_of_which_nothing_is_seen_is_noted(mode, transparent):
    """It becomes white, as in a browser, and a data sheet says why."""
    picture = gradient(64, 64).convert(mode)
    picture.putalpha(0 if transparent else 255)
    pixels, facts = examine(encode(picture), 32)

    assert transparent == facts.transparent == (pixels.min() == 255)


def test_sixteen_bits_are_known():
    """A PNG that holds 12 bits in 16 is nearly black; the bits tell why."""
    assert 16 == examine(png(20, 20, colour=0, bits=16), 16)[1].bits
    assert 16 == examine(png(20, 20, colour=2, bits=16), 16)[1].bits
    assert 8 == examine(png(20, 20, colour=2), 16)[1].bits


def test_bands_of_rows_make_the_same_picture(monkeypatch):
    """What is converted in parts is what would be converted whole."""
    picture = textured(300, 260).convert("RGBA")
    picture.putalpha(textured(300, 260).getchannel(1))
    whole = load_square(encode(picture), 64)
    monkeypatch.setattr(colour, "_BAND_PIXELS", 1000)

    assert np.array_equal(whole, load_square(encode(picture), 64))
