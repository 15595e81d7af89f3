"""Pictures of every kind that is accepted, and what may happen to their bytes."""

import io
import random
from typing import Any

import numpy as np
from PIL import Image


def seeds() -> list[bytes]:
    """Return small pictures of every kind that is accepted, and of some that are hard."""
    rng = np.random.default_rng(0)
    found = []

    def add(image: Image.Image, kind: str, **options: Any) -> None:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        found.append(buffer.getvalue())

    coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    rgb = Image.fromarray(coarse).resize((96, 72), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6
    for progressive in (False, True):
        add(rgb, "JPEG", progressive=progressive, exif=exif)
    add(rgb.convert("CMYK"), "JPEG")
    add(rgb.convert("L"), "JPEG")
    add(rgb, "PNG")
    add(rgb.convert("P", palette=Image.Palette.ADAPTIVE), "PNG", transparency=3)
    add(Image.fromarray(rng.integers(0, 65536, (40, 50), dtype=np.uint16)), "PNG")
    add(rgb.convert("RGBA"), "PNG")
    add(rgb.convert("1"), "PNG")
    frames = [rgb.rotate(90 * number) for number in range(6)]
    add(rgb, "PNG", save_all=True, append_images=frames)
    add(rgb, "WEBP", quality=60)
    add(rgb.convert("RGBA"), "WEBP", lossless=True)
    add(rgb, "WEBP", save_all=True, append_images=frames)
    return found


def mutated(rng: random.Random, pictures: list[bytes]) -> bytes:
    """Return a picture to which something happened."""
    data = bytearray(rng.choice(pictures))
    kind = rng.randrange(6)
    if kind == 0:  # bits flipped, a few or many
        for _ in range(rng.choice((1, 3, 30))):
            at = rng.randrange(len(data))
            data[at] ^= 1 << rng.randrange(8)
    elif kind == 1:  # cut off
        del data[rng.randrange(len(data)) :]
    elif kind == 2:  # the header of one kind before the body of another
        other = rng.choice(pictures)
        cut = rng.randrange(2, 200)
        data[:cut] = other[: rng.randrange(2, 200)]
    elif kind == 3:  # sizes in the header, which promise what is not there
        for at in range(rng.randrange(40), min(len(data), 40)):
            if rng.random() < 0.3:
                data[at] = rng.choice((0, 1, 0x7F, 0xFF))
    elif kind == 4:  # a part in a wrong place
        start = rng.randrange(len(data))
        part = data[start : start + rng.randrange(200)]
        at = rng.randrange(len(data))
        data[at:at] = part
    else:  # bytes that are random
        data = bytearray(rng.randbytes(rng.randrange(300)))
    return bytes(data)
