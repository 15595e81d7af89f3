"""One photo of each class in one picture, named in a font that the package brings."""

import math
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from PIL import Image, ImageDraw

from machine import num_cores
from service.pixels.preprocessing import ImageError, load_square
from training.data.dataset import Photo
from training.datasheet.findings import Sheet
from training.files import replacing
from training.pages import fonts

_INK, _GREY, _RED, _PAPER, _EMPTY = "#1c1b1a", "#77736e", "#b3261e", "#ffffff", "#eeebe6"

MOST_TILES = 1000
"""Classes that a picture or a page shows; more would make it larger than anybody opens."""


def contact_sheet(sheet: Sheet, out: Path) -> None:
    """Draw one photo of each class, its label and its counts, in one PNG.

    The first readable photo stands for its class. Few classes make large tiles, a thousand small;
    more than that are left to `sheet.json`.
    """
    labels, counts = sheet.folder.labels[:MOST_TILES], sheet.counts()
    columns = math.ceil(math.sqrt(len(labels)))
    side = max(96, min(240, 1600 // columns))
    gap, label_px, small_px = side // 10, max(13, side // 13), max(10, side // 18)
    header, cell_height = 4 * 36, side + 2 * label_px + 2 * small_px + gap
    # The header needs some room, however few the classes are.
    width = max(gap + columns * (side + gap), 640)
    height = header + math.ceil(len(labels) / columns) * cell_height + gap
    page = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(page)

    def write(x: int, y: int, text: str, size_px: int, colour: str, width_px: int) -> None:
        fonts.write(draw, x, y, fonts.shorten(text, size_px, width_px), size_px, colour)

    totals = [f"{split} {sum(of.values()):,}" for split, of in counts.items()]
    title = f"{sheet.folder.title} · {len(sheet.folder.labels)} classes"
    if len(labels) < len(sheet.folder.labels):
        title += f", the first {len(labels)} of them"
    write(gap, 16, title, 28, _INK, width - 2 * gap)
    write(gap, 64, " · ".join(totals), 16, _GREY, width - 2 * gap)
    write(gap, 92, " · ".join(sheet.problems()), 16, _RED, width - 2 * gap)
    with ThreadPoolExecutor(num_cores(), "inspect") as pool:
        pictures = pool.map(partial(_picture, side=side), sheet.one_of_each()[: len(labels)])
        for index, (label, picture) in enumerate(zip(labels, pictures, strict=True)):
            x = gap + index % columns * (side + gap)
            y = header + index // columns * cell_height
            if picture is None:
                draw.rectangle((x, y, x + side - 1, y + side - 1), fill=_EMPTY)
                write(x + 8, y + side // 2, "no readable photo", small_px, _RED, side - 16)
            else:
                page.paste(picture, (x, y))
            write(x, y + side + 2, label, label_px, _INK, side)
            each = " · ".join(f"{split} {of[label]}" for split, of in counts.items())
            write(x, y + side + 2 + label_px * 3 // 2, each, small_px, _GREY, side)
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as temporary:
        page.save(temporary, "PNG")


def _picture(photo: Photo | None, side: int) -> Image.Image | None:
    if photo is None:
        return None
    try:
        return Image.fromarray(load_square(photo.path.read_bytes(), side))
    except (ImageError, OSError):  # it changed since it was read
        return None
