"""Tables, vessels and chopsticks of the drawn pictures, and the view of a scene.

Shapes: H height, W width. In a vessel's own coordinates its opening is the unit disc.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from training.samples.dishes import Colour

Floats = NDArray[np.float32]
Random = np.random.Generator

_TILE = 640

_TABLES: tuple[tuple[str, Colour], ...] = (
    ("wood", (172, 122, 76)), ("wood", (120, 78, 48)), ("wood", (205, 168, 122)),
    ("stone", (196, 192, 186)), ("stone", (92, 92, 96)), ("stone", (228, 226, 220)),
    ("cloth", (226, 220, 206)), ("cloth", (150, 60, 50)), ("cloth", (88, 112, 140)),
    ("mat", (190, 170, 110)), ("mat", (70, 60, 52)), ("stone", (60, 70, 66)),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Vessel:
    """A plate, bowl, pot or basket."""

    rim: Colour
    inside: Colour
    body: Colour
    food: float
    """Radius of the food's region, relative to the rim's."""
    depth: float
    """Height of the wall, relative to the radius."""
    stretch: float = 1.0
    square: bool = False


VESSELS: dict[str, Vessel] = {
    "white": Vessel((244, 243, 240), (250, 249, 246), (222, 220, 216), 0.84, 0.25),
    "celadon": Vessel((150, 176, 158), (170, 194, 176), (120, 148, 132), 0.84, 0.25),
    "dark": Vessel((58, 56, 58), (78, 76, 78), (40, 38, 40), 0.84, 0.15),
    "oval": Vessel((240, 238, 234), (248, 246, 242), (214, 212, 208), 0.8, 0.1, 1.35),
    "steel": Vessel((214, 216, 220), (176, 180, 186), (150, 154, 160), 0.88, 0.42),
    "earthen": Vessel((70, 50, 42), (52, 36, 32), (46, 33, 28), 0.84, 0.5),
    "stone": Vessel((84, 82, 82), (58, 56, 56), (50, 48, 48), 0.84, 0.45),
    "iron": Vessel((48, 46, 46), (62, 58, 56), (30, 28, 28), 0.9, 0.1),
    "pan": Vessel((212, 178, 84), (196, 164, 80), (170, 138, 60), 0.9, 0.35),
    "basket": Vessel((186, 140, 82), (216, 182, 128), (156, 112, 62), 0.86, 0.3),
    "wood": Vessel((150, 100, 58), (176, 124, 76), (112, 72, 40), 0.86, 0.08, 1.3, square=True),
    "small": Vessel((238, 236, 230), (246, 244, 240), (206, 203, 197), 0.88, 0.4),
}


@dataclass(frozen=True, slots=True)
class View:
    """Where a vessel lies in the picture, in pixels."""

    x: float
    y: float
    radius: float
    ratio: float
    """Height to width of a circle in the picture; 1 is the view from above."""
    stretch: float = 1.0

    def box(self, scale: float, by: float = 1.0, down: float = 0.0) -> tuple[float, ...]:
        """Return the bounding box of an ellipse of radius `scale`, multiplied by `by`.

        `down` moves it down by so many radii.
        """
        rx, ry = self.radius * self.stretch * scale, self.radius * self.ratio * scale
        y = self.y + down * self.radius
        return ((self.x - rx) * by, (y - ry) * by, (self.x + rx) * by, (y + ry) * by)


@lru_cache(maxsize=16)
def _noise(cell: int) -> Floats:
    """Return a tile (640, 640) of smooth noise in 0 … 1, with bumps of `cell` pixels."""
    size = _TILE // cell + 2
    values = np.random.default_rng(cell).random((size, size), dtype=np.float32)
    image = Image.fromarray(values).resize((_TILE, _TILE), Image.Resampling.BICUBIC)
    return np.asarray(image).clip(0, 1)


def crop_noise(rng: Random, cell: int, height: int, width: int) -> Floats:
    """Return a random piece (height, width) of a tile of noise in 0 … 1, bumps of `cell` px."""
    top, left = rng.integers(_TILE - height), rng.integers(_TILE - width)
    return _noise(cell)[top : top + height, left : left + width]


def jitter(rng: Random, colour: Colour, amount: float) -> Colour:
    """Return a colour near another one."""
    shift = rng.normal(0, amount * 0.5) + rng.normal(0, amount * 0.5, 3)
    red, green, blue = (int(value) for value in (np.array(colour) + shift).clip(4, 252))
    return red, green, blue


def as_image(values: NDArray[np.floating[Any]]) -> Image.Image:
    """Return float (H, W, 3) or (H, W) of 0 to 255 as a picture."""
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def draw_table(rng: Random, width: int, height: int) -> Image.Image:
    """Return a table top of wood, stone, cloth or matting."""
    kind, colour = _TABLES[rng.integers(len(_TABLES))]
    shade = 0.9 + 0.2 * crop_noise(rng, 80, height, width)
    if kind == "wood":
        # A few columns of noise, stretched, look like grain.
        rows = crop_noise(rng, 4, height, 24)
        grain = Image.fromarray(rows).resize((width, height), Image.Resampling.BICUBIC)
        shade = shade * (0.82 + 0.3 * np.asarray(grain))
        plank, phase = rng.integers(40, 90), rng.integers(90)
        shade[(np.arange(height) + phase) % plank < 2] *= 0.7
    elif kind == "cloth":
        period = int(rng.integers(14, 40))
        down = (np.arange(height) // period % 2)[:, None]
        across = (np.arange(width) // period % 2)[None]
        shade = shade * (1 - rng.uniform(0, 0.25) * (down + across))
        shade = shade * (0.92 + 0.16 * crop_noise(rng, 2, height, width))
    elif kind == "mat":
        shade = shade * (0.85 + 0.2 * (np.arange(height) % 7 > 1)[:, None])
    else:
        shade = shade * (0.85 + 0.3 * crop_noise(rng, 20, height, width) ** 2)
    if kind != "cloth" and rng.random() < 0.4:
        shade = np.ascontiguousarray(shade[:, ::-1])
    return as_image(shade[..., None] * np.array(jitter(rng, colour, 14), np.float32))


def _shadow(image: Image.Image, box: tuple[float, ...], blur: float, dark: float) -> None:
    """Darken an ellipse softly; it is drawn at a quarter of the size, where blurring is cheap."""
    width, height = image.size
    small = Image.new("L", (width // 4 + 1, height // 4 + 1))
    ImageDraw.Draw(small).ellipse([value / 4 for value in box], fill=int(255 * dark))
    mask = small.filter(ImageFilter.GaussianBlur(blur / 4)).resize((width, height))
    image.paste((18, 12, 10), mask=mask)


def draw_sticks(rng: Random, image: Image.Image, view: View) -> None:
    """Draw chopsticks, and sometimes a spoon."""
    width, height = image.size
    layer = Image.new("RGBA", (width * 2, height * 2))
    draw = ImageDraw.Draw(layer)
    colour = ((200, 202, 206), (150, 96, 52), (60, 34, 26))[rng.integers(3)]
    angle = rng.normal(math.pi / 2, 0.35)
    right = 1 if rng.random() < 0.75 else -1
    for index in range(2 + int(rng.random() < 0.4)):
        x = (view.x + right * view.radius * (1.18 * view.stretch + 0.11 * index)) * 2
        y, length = view.y * 2, view.radius * 2.0
        dx, dy = math.cos(angle) * length, math.sin(angle) * length
        thick = max(4, int(view.radius * 0.08))
        for shift, tone in ((3, (20, 14, 10, 90)), (0, (*colour, 255)), (-1, (255, 255, 255, 70))):
            wide = thick if tone[3] > 80 else thick // 3
            draw.line((x - dx + shift, y - dy + shift, x + dx + shift, y + dy + shift), tone, wide)
            if index == 2:
                bowl = view.radius * 0.3
                tall, u, v = bowl * 1.3, x - dx + shift, y - dy + shift
                draw.ellipse((u - bowl, v - tall, u + bowl, v + tall), tone)
    small = layer.reduce(2)
    image.paste(small, mask=small)


def draw_vessel(rng: Random, image: Image.Image, vessel: Vessel, view: View) -> None:
    """Draw an empty vessel and its shadow."""
    lean = vessel.depth * math.sqrt(max(0.0, 1 - view.ratio**2))
    _shadow(image, view.box(1.02, down=lean * 0.6 + 0.07), view.radius * 0.16, 0.62)
    # PageFigure twice as large in its own box, then reduced: smooth edges.
    left, top, right, bottom = (int(value) for value in view.box(1.06))
    bottom += int(lean * view.radius) + 2
    layer = Image.new("RGBA", ((right - left) * 2, (bottom - top) * 2))
    draw = ImageDraw.Draw(layer)
    own = View(view.x - left, view.y - top, view.radius, view.ratio, view.stretch)
    tint = rng.normal(0, 6)

    def shape(scale: float, colour: Colour, light: float, down: float = 0.0) -> None:
        fill = tuple(int(min(255, max(0, value * light + tint))) for value in colour)
        box = own.box(scale, 2, down)
        if vessel.square:
            draw.rounded_rectangle(box, view.radius * 0.3, fill)
        else:
            draw.ellipse(box, fill)

    for step in range(5, 0, -1):
        shape(1 - 0.06 * step, vessel.body, 1.0 - 0.1 * step, lean * step / 5)
    shape(1.0, vessel.rim, 0.8)
    shape(0.99, vessel.rim, 1.06)
    shape(0.93, vessel.inside, 0.8)
    shape(0.91, vessel.inside, 0.9, 0.01)
    shape(0.84, vessel.inside, 1.0, 0.03)
    if vessel is VESSELS["basket"]:
        for step in range(-8, 9):
            x = (own.x + own.radius * step / 9.5) * 2
            half = own.radius * own.ratio * 0.9 * math.sqrt(1 - (step / 9.5) ** 2) * 2
            draw.line((x, own.y * 2 - half, x, own.y * 2 + half), (150, 110, 62, 150), 3)
    small = layer.reduce(2)
    image.paste(small, (left, top), small)
