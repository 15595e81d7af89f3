"""One function makes the pixels for training and for serving; it takes whatever callers send."""

import random
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from service.errors import ImageError
from service.pixels.jpeg import Jpeg
from service.pixels.preprocessing import (
    MAX_BYTES,
    centre_crop,
    load_square,
    preprocess,
    resize_size,
)
from tests.service.pixels.pictures import chunk, encode, gradient, textured


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (64, 64), (5, 900), (1, 1)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_any_shape_becomes_the_square_of_the_model(size, kind):
    """Every accepted format and aspect gives uint8 RGB of the model's size."""
    pixels = preprocess(encode(gradient(*size), kind), 64)

    assert (64, 64, 3) == pixels.shape
    assert np.uint8 == pixels.dtype


def test_the_shorter_side_is_resized_and_the_centre_is_kept():
    """A wide picture loses its sides, by the same rule whether cropped once or twice."""
    data = encode(gradient(448, 256))

    square = load_square(data, resize_size(224))

    assert 256 == resize_size(224)
    assert (256, 256, 3) == square.shape
    red = square[128, :, 0].astype(int)
    assert red[0] == pytest.approx(255 * 96 / 448, abs=3)
    assert red[-1] == pytest.approx(255 * 352 / 448, abs=3)
    assert np.array_equal(square[16:240, 16:240], preprocess(data, 224))
    assert np.array_equal(centre_crop(square[None], 224)[0], preprocess(data, 224))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(orientation):
    """A photo stored in any of EXIF's eight orientations looks the same as the upright one."""
    upright = gradient(96, 96)
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation

    rotated = preprocess(encode(stored, "PNG", exif=exif), 64)

    expected = preprocess(encode(upright), 64)
    assert np.abs(rotated.astype(int) - expected).max() <= 2


@pytest.mark.parametrize("size", [(348, 348), (1600, 1200), (90, 300), (40, 40), (73, 74)])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_both_decoders_make_the_same_picture(size, orientation):
    """A baseline JPEG takes the fast road, a progressive one the other: both look alike."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = textured(*size)
    fast = encode(image, "JPEG", quality=95, exif=exif)
    slow = encode(image, "JPEG", quality=95, exif=exif, progressive=True)
    assert Jpeg(fast).usual
    assert not Jpeg(slow).usual
    difference = np.abs(preprocess(fast, 64).astype(int) - preprocess(slow, 64))
    assert difference.mean() < 4
    assert min(Jpeg(fast).decode(73).size) >= min(73, *size)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("CMYK", (32, 32), (0, 255, 255, 0)), (255, 0, 0)),
        (Image.new("L", (32, 32), 77), (77, 77, 77)),
        (Image.new("1", (32, 32), 1), (255, 255, 255)),
        (Image.new("I;16", (32, 32), 0x8000), (128, 128, 128)),
        (Image.new("LA", (32, 32), (0, 0)), (255, 255, 255)),
        (Image.new("RGBA", (32, 32), (255, 0, 0, 0)), (255, 255, 255)),
        (Image.new("RGBA", (32, 32), (255, 0, 0, 255)), (255, 0, 0)),
        (Image.new("RGB", (32, 32), (9, 200, 30)).convert("P", palette=1), (9, 200, 30)),
    ],
    ids=["CMYK", "grey", "1-bit", "16-bit", "LA", "clear", "opaque", "palette"],
)
def test_every_mode_becomes_rgb(image, expected):
    """CMYK, grey, palette, 16-bit and transparent pictures get the colours a person sees."""
    pixels = preprocess(encode(image, "JPEG" if image.mode == "CMYK" else "PNG"), 16)

    assert np.abs(pixels[8, 8].astype(int) - expected).max() <= 4


def test_a_transparent_palette_is_seen_on_white():
    """A palette colour declared transparent becomes white."""
    image = Image.new("P", (32, 32), 0)
    image.putpalette([10, 20, 30, 200, 0, 0])

    assert 255 == preprocess(encode(image, transparency=0), 16).min()


def test_an_animation_gives_its_first_frame():
    """Of an animated WebP only the first frame is decoded."""
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue", "lime")]
    data = encode(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)

    assert [255, 0, 0] == preprocess(data, 16)[8, 8].tolist()


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "empty"),
        (b"hello", "a text file, which is not read here"),
        (encode(gradient(200, 200), "JPEG")[:2000], "cut off"),
        (encode(gradient(200, 200), "PNG")[:300], "broken"),
        (bytes(MAX_BYTES + 1), "at most"),
    ],
    ids=["empty", "text", "cut jpeg", "cut png", "huge"],
)
def test_what_is_no_picture_is_refused_with_a_sentence(data, sentence):
    """Bad bytes raise ImageError, which says what is wrong with them."""
    with pytest.raises(ImageError, match=sentence):
        preprocess(data, 64)


def test_a_bomb_is_refused_by_its_header():
    """A PNG that declares 10 gigapixels is refused before a pixel is decoded."""
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")

    with pytest.raises(ImageError, match=r"10000000000 pixels.*shrink"):
        preprocess(b"\x89PNG\r\n\x1a\n" + chunks, 64)


SEEDS = [encode(gradient(90, 60), kind) for kind in ("JPEG", "PNG", "WEBP")]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(SEEDS), st.integers(0, 2**32), st.integers(1, 20))
def test_mutated_bytes_give_pixels_or_an_image_error(data, seed, num_changes):
    """Whatever happens to a file, the answer is a right array or an ImageError, never more."""
    rng = random.Random(seed)
    mutated = bytearray(data)
    for _ in range(num_changes):
        mutated[rng.randrange(len(mutated))] = rng.randrange(256)
    try:
        pixels = preprocess(bytes(mutated[: rng.randint(1, len(mutated))]), 32)
    except ImageError:
        return
    assert (32, 32, 3) == pixels.shape
    assert np.uint8 == pixels.dtype
