"""JPEGs as they come: cut, padded, odd, huge, and made to say two sizes."""

import struct
import time

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from service.errors import ImageError
from service.pixels import jpeg_header
from service.pixels.jpeg import Jpeg
from service.pixels.jpeg_header import small
from service.pixels.preprocessing import load_square
from tests.service.pixels.pictures import (
    encode,
    gradient,
    lying_jpeg,
    resized_header,
    segment,
    segments,
    solid_jpeg,
    textured,
)

PLAIN = encode(textured(160, 120), "JPEG", quality=90)
PROGRESSIVE = encode(textured(160, 120), "JPEG", quality=90, progressive=True)
KINDS = {
    "colour": PLAIN,
    "grey": encode(textured(160, 120).convert("L"), "JPEG"),
    "CMYK": encode(textured(160, 120).convert("CMYK"), "JPEG"),
    "progressive": PROGRESSIVE,
    "restarts": encode(textured(160, 120), "JPEG", restart_marker_blocks=2),
}


def with_extra(jpeg: bytes, at: int, extra: bytes) -> bytes:
    """Return a JPEG with bytes put in before its segment of that number."""
    before, rest = segments(jpeg)
    return b"\xff\xd8" + b"".join(before[:at]) + extra + b"".join(before[at:]) + rest


def test_a_jpeg_that_lies_is_judged_by_its_real_size():
    """RSTn has no length: what says 100 x 100 after it is not read, and the bomb is refused."""
    bomb = lying_jpeg(65500, 65500)
    load_square(PLAIN, 64)
    start_s = time.perf_counter()
    with pytest.raises(ImageError, match="65500 x 65500 pixels"):
        load_square(bomb, 64)

    assert 0.05 > time.perf_counter() - start_s
    assert small(bomb) is None
    assert 3000 == Jpeg(lying_jpeg(3000, 2000)).width


EXTRAS = st.one_of(
    st.sampled_from([0x01, *range(0xD0, 0xD8)]).map(lambda kind: bytes((0xFF, kind))),
    st.integers(1, 5).map(lambda count: b"\xff" * count),
    st.binary(max_size=8),
    st.builds(segment, st.integers(0xC0, 0xFE), st.binary(max_size=30)),
    st.builds(
        lambda kind, length: bytes((0xFF, kind)) + struct.pack(">H", length),
        st.integers(1, 0xFE),
        st.integers(0, 700),
    ),
)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from([*KINDS]), st.lists(st.tuples(st.integers(0, 9), EXTRAS), max_size=4))
def test_two_readers_never_see_two_pictures(kind, extras):
    """Whatever stands between the segments, the size is libjpeg's, or the file is refused."""
    before, rest = segments(KINDS[kind])
    for at, extra in extras:
        before.insert(at, extra)
    data = b"\xff\xd8" + b"".join(before) + rest
    try:
        picture = Jpeg(data)
    except ImageError:
        return
    height, width, *_ = simplejpeg.decode_jpeg_header(data, strict=False)

    assert (width, height) == (picture.width, picture.height)


def test_what_is_read_in_two_ways_is_refused(monkeypatch):
    """If our reader should ever see another size than libjpeg, nothing is decoded."""
    read = jpeg_header.read
    monkeypatch.setattr(jpeg_header, "read", lambda data: read(data)._replace(width=100))

    with pytest.raises(ImageError, match="100 x 120 pixels and as 160 x 120"):
        load_square(PLAIN, 64)


@pytest.mark.parametrize(
    "extra",
    [
        b"\xff\xff\xff",
        b"\xff\xd3",
        b"\xff\x01",
        bytes(1199),
        b"\0\xff\0\0",
        segment(0xFE, b"a comment"),
        segment(0xE5, b"") * 200,
    ],
    ids=["fill bytes", "RST3", "TEM", "zeros", "no marker", "comment", "200 segments"],
)
@pytest.mark.parametrize("at", [0, 3])
def test_what_stands_between_segments_changes_no_pixel(extra, at):
    """Padding, markers without a length and strange segments are passed over, as browsers do."""
    odd = with_extra(PLAIN, at, extra)

    # Scaled in another way, like all that is odd.
    assert np.abs(load_square(odd, 64).astype(int) - load_square(PLAIN, 64)).mean() < 6
    whole = Jpeg(odd).decode(120)
    assert np.array_equal(np.asarray(whole), np.asarray(Jpeg(PLAIN).decode(120)))


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (with_extra(PLAIN, 1, segment(0xE5, b"") * 5000), "more than 1024 segments"),
        (with_extra(PLAIN, 1, b"\xff\xe1\0\1"), "no length"),
        (with_extra(PLAIN, 1, b"\xff\xd8"), "starts twice"),
        (with_extra(PLAIN, 9, segments(PLAIN)[0][3]), "two frames"),
        (PLAIN.replace(b"\xff\xc0", b"\xff\xc3"), "rare kind"),
        (resized_header(PLAIN, 0, 100), "no size"),
        (PLAIN[:100], "cut off"),
        (b"\xff\xd8", "cut off"),
    ],
    ids=[
        "segments",
        "no length",
        "two starts",
        "two frames",
        "lossless",
        "no width",
        "cut",
        "start",
    ],
)
def test_a_broken_header_has_a_sentence(data, sentence):
    """Each fault of a header is named."""
    with pytest.raises(ImageError, match=sentence):
        load_square(data, 64)


@pytest.mark.parametrize("kind", KINDS)
def test_a_photo_without_its_end_marker_is_whole(kind):
    """Two bytes that bring no pixel may lack: the pixels are the same to the bit."""
    whole = KINDS[kind]
    assert b"\xff\xd9" == whole[-2:]
    for data in (whole[:-2], whole[:-1]):
        assert np.array_equal(load_square(data, 64), load_square(whole, 64))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", [32, 96])
def test_a_photo_that_is_cut_off_is_refused(kind, side):
    """Wherever it breaks off, also with its end put back or zeros after it, it is named."""
    whole = KINDS[kind]
    for share in (0.3, 0.5, 0.7, 0.9, 0.97):
        cut = whole[: int(len(whole) * share)]
        for data in (cut, cut + b"\xff\xd9", cut + bytes(4096)):
            with pytest.raises(ImageError, match=r"cut off|broken"):
                load_square(data, side)


def test_a_progressive_photo_that_ends_between_two_scans_is_refused():
    """Libjpeg takes it for a coarse picture without a word."""
    starts = [at for at in range(len(PROGRESSIVE)) if PROGRESSIVE[at : at + 2] == b"\xff\xda"]
    tables = [at for at in range(len(PROGRESSIVE)) if PROGRESSIVE[at : at + 2] == b"\xff\xc4"]
    ends = {max(t for t in tables if t < at) for at in starts[1:]}
    assert len(starts) > 5
    for end in ends:
        with pytest.raises(ImageError, match="cut off"):
            load_square(PROGRESSIVE[:end], 64)


@pytest.mark.parametrize(
    "after",
    [bytes(4096), b"\0\0\0\x18ftypmp42" + bytes(range(256)) * 80, PLAIN[: len(PLAIN) // 2]],
    ids=["zeros", "video", "cut second picture"],
)  # fmt: skip
def test_what_follows_a_photo_is_not_its_fault(after):
    """Phones put a video, padding or another picture behind the photo."""
    assert np.array_equal(load_square(PLAIN + after, 64), load_square(PLAIN, 64))


def test_a_photo_of_two_pictures_is_a_jpeg():
    """An MPO, as iPhones and 3D cameras write it, is the first of its pictures, turned upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    first, second = textured(96, 64), gradient(96, 64)
    both = encode(first, "MPO", save_all=True, append_images=[second], exif=exif)

    for data in (both, both[:-200]):
        assert np.array_equal(
            load_square(data, 64), load_square(encode(first, "JPEG", exif=exif), 64)
        )


def test_bytes_after_the_coded_data_are_forgiven():
    """Libjpeg complains of them, and loses no pixel."""
    odd = PLAIN[:-2] + bytes(7) + PLAIN[-2:]
    with pytest.raises(ValueError, match=r"(?i)extraneous"):
        simplejpeg.decode_jpeg(odd, "RGB")

    assert np.abs(load_square(odd, 56).astype(int) - load_square(PLAIN, 56)).mean() < 4


@pytest.mark.parametrize(
    ("width", "height"),
    [(8192, 6144), (9280, 6928), (12000, 9008), (16320, 12240), (16000, 4000)],
    ids=["50 MP", "64 MP", "108 MP", "200 MP", "panorama"],
)
def test_a_huge_baseline_photo_is_cheap(width, height):
    """Its decoder scales it: no camera's photo is too large."""
    data = solid_jpeg(width, height)

    assert Jpeg(data).peak_bytes(256) < 64 * 2**20
    assert 128 == load_square(data, 256).mean()


def test_too_many_passes_are_refused():
    """A small progressive file could keep a core busy for hours."""
    before, rest = segments(PROGRESSIVE)
    scan = rest[: rest.index(b"\xff", 12)]
    long = resized_header(b"\xff\xd8" + b"".join(before) + scan * 2000 + b"\xff\xd9", 4000, 3000)

    with pytest.raises(ImageError, match=r"2000 passes.*baseline"):
        load_square(long, 64)


def test_small_photos_are_told_in_microseconds():
    """Whatever it is, the event loop may ask: no file makes it walk far."""
    hostile = [
        b"\xff\xd8" + segment(0xE5, b"") * 65000,
        b"\xff\xd8" + b"\xff\xd0" * 130_000,
        b"\xff\xd8" + b"\xff" * 260_000,
        b"\xff\xd8" + b"\0\xff\0" * 80_000,
        lying_jpeg(100, 100) + bytes(180_000),
        b"\xff\xd8" + segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + b"t" * 65000) * 3,
    ]
    for data in hostile:
        assert len(data) < 2**18
        best_s = min(_timed(small, data) for _ in range(5))
        # 64 of them are a call.
        assert 64 * best_s < 0.025, data[:8]
    assert small(PLAIN) is not None
    assert small(PROGRESSIVE) is None
    assert small(solid_jpeg(1600, 1600)) is None


def _timed(work, *args) -> float:
    start_s = time.perf_counter()
    work(*args)
    return time.perf_counter() - start_s
