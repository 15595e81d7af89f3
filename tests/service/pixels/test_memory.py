"""What decoding takes at its highest, as the system counts it, is what was estimated or less."""

import io
import json
import os
import subprocess
import sys
from functools import cache

import pytest
from PIL import Image

from tests.paths import ROOT
from tests.service.pixels.pictures import encode, png, solid_jpeg, textured

SIDE = 1600
CHILD = """
import json, os, sys
from pathlib import Path
from service.pixels import preprocessing
from tests.service.pixels.pictures import png

def kib(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))

preprocessing.load_square(png(64, 64), 32)
for path in sys.argv[1:]:
    if os.fork():
        os.wait()
        continue
    data = Path(path).read_bytes()
    before = kib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    estimate = preprocessing._opened(data).peak_bytes(256)
    preprocessing.load_square(data, 256)
    print(json.dumps([1024 * (kib("VmHWM") - before), estimate]), flush=True)
    os._exit(0)
"""
"""Each picture is decoded in a process that has decoded none before: what that left would count."""


@cache
def picture(mode: str = "RGB") -> Image.Image:
    """Return a large picture."""
    found = textured(SIDE, SIDE)
    if mode in ("RGBA", "LA"):
        found.putalpha(found.getchannel(0))
    return found.convert(mode)


def noend() -> bytes:
    """Return a JPEG that is copied to put its end back."""
    return encode(picture(), "JPEG", quality=98, subsampling=0)[:-2]


def several_strips() -> bytes:
    """Return a TIFF that is compressed as a whole."""
    buffer = io.BytesIO()
    picture("RGBA").save(buffer, "TIFF", compression="tiff_lzw", strip_size=2**30)
    return buffer.getvalue()


CASES = {
    "PNG RGBA": lambda: png(SIDE, SIDE),
    "PNG interlaced": lambda: png(SIDE, SIDE, interlaced=True),
    "PNG 16 bits": lambda: png(SIDE, SIDE, bits=16),
    "PNG grey 16 bits": lambda: png(SIDE, SIDE, colour=0, bits=16),
    "PNG palette": lambda: encode(picture("P"), transparency=bytes(range(256))),
    "PNG grey and alpha": lambda: png(SIDE, SIDE, colour=4),
    "PNG wide": lambda: png(SIDE * 4, SIDE // 4),
    "JPEG": lambda: solid_jpeg(12800, 9600),
    "JPEG without an end": noend,
    "JPEG progressive": lambda: encode(picture(), "JPEG", progressive=True, subsampling=0),
    "JPEG progressive CMYK": lambda: encode(picture("CMYK"), "JPEG", progressive=True),
    "JPEG flat": lambda: encode(picture().resize((65000, 100)), "JPEG"),
    "WebP": lambda: encode(picture(), "WEBP", method=0),
    "WebP lossless": lambda: encode(picture("RGBA"), "WEBP", lossless=True, method=0, quality=0),
    "AVIF": lambda: encode(picture("RGBA"), "AVIF", speed=10, subsampling="4:4:4"),
    "GIF": lambda: encode(picture("P"), "GIF"),
    "BMP": lambda: encode(picture(), "BMP"),
    "TIFF": several_strips,
    "TIFF CMYK": lambda: encode(picture("CMYK"), "TIFF"),
}


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> dict[str, tuple[int, int]]:
    """Return, for each kind, what it took and what was estimated, in bytes."""
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("this system does not count memory at its highest")
    folder = tmp_path_factory.mktemp("pictures")
    for kind, made in CASES.items():
        (folder / kind).write_bytes(made())
    lines = subprocess.run(
        [sys.executable, "-c", CHILD, *(str(folder / kind) for kind in CASES)],
        capture_output=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    ).stdout.splitlines()
    return dict(zip(CASES, map(json.loads, lines), strict=True))


@pytest.mark.parametrize("kind", CASES)
def test_the_estimate_bounds_what_is_taken(kind, measured):
    """Resident memory at its highest is within what was to be held, and not far below it."""
    peak, estimate = measured[kind]

    assert peak <= estimate
    assert estimate <= 4 * peak + 16 * 2**20
