"""Draws a dish on a table as a phone would see it; numpy and Pillow, about 10 ms a picture.

    table ─► things beside ─► vessel ─► base ─► pieces ─► light, colour cast, blur, noise

A picture depends on its seed alone. Pieces are drawn once per process, each kind in some
variants, with light from the upper left; a picture scales and tints them.

Shapes: H height, W width. In a vessel's own coordinates its opening is the unit disc.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from training.dishes import INGREDIENTS, Colour, Dish, Layer
from training.pieces import PIECE, SPRITE, VARIANTS, piece

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
class _Vessel:
    rim: Colour
    inside: Colour
    body: Colour
    food: float
    """Radius of the food's region; the rim's is 1."""
    depth: float
    """Height of the wall; the radius is 1."""
    stretch: float = 1.0
    square: bool = False


_VESSELS: dict[str, _Vessel] = {
    "white": _Vessel((244, 243, 240), (250, 249, 246), (222, 220, 216), 0.84, 0.25),
    "celadon": _Vessel((150, 176, 158), (170, 194, 176), (120, 148, 132), 0.84, 0.25),
    "dark": _Vessel((58, 56, 58), (78, 76, 78), (40, 38, 40), 0.84, 0.15),
    "oval": _Vessel((240, 238, 234), (248, 246, 242), (214, 212, 208), 0.8, 0.1, 1.35),
    "steel": _Vessel((214, 216, 220), (176, 180, 186), (150, 154, 160), 0.88, 0.42),
    "earthen": _Vessel((70, 50, 42), (52, 36, 32), (46, 33, 28), 0.84, 0.5),
    "stone": _Vessel((84, 82, 82), (58, 56, 56), (50, 48, 48), 0.84, 0.45),
    "iron": _Vessel((48, 46, 46), (62, 58, 56), (30, 28, 28), 0.9, 0.1),
    "pan": _Vessel((212, 178, 84), (196, 164, 80), (170, 138, 60), 0.9, 0.35),
    "basket": _Vessel((186, 140, 82), (216, 182, 128), (156, 112, 62), 0.86, 0.3),
    "wood": _Vessel((150, 100, 58), (176, 124, 76), (112, 72, 40), 0.86, 0.08, 1.3, square=True),
    "small": _Vessel((238, 236, 230), (246, 244, 240), (206, 203, 197), 0.88, 0.4),
}
_LIGHTS = [[min(255, value * step // 8) for value in range(256)] * 3 for step in range(14)]
"""Tables that make a piece darker (below 8) or brighter."""
_GARNISHES = ("sesame", "scallion", "chilli flakes", "lettuce", "kimchi", "egg strip", "pepper")


@dataclass(frozen=True, slots=True)
class _View:
    """Where a vessel lies in the picture, in pixels."""

    x: float
    y: float
    radius: float
    ratio: float
    """Of height to width of a circle: 1 is seen from above."""
    stretch: float = 1.0

    def box(self, scale: float, by: float = 1.0, down: float = 0.0) -> tuple[float, ...]:
        """Return the ellipse of a radius `scale`, all multiplied by `by`."""
        rx, ry = self.radius * self.stretch * scale, self.radius * self.ratio * scale
        y = self.y + down * self.radius
        return ((self.x - rx) * by, (y - ry) * by, (self.x + rx) * by, (y + ry) * by)


def paint(dish: Dish, seed: int) -> Image.Image:
    """Draw one picture of a dish, RGB, 200 to 320 pixels wide and high."""
    rng = np.random.default_rng(seed)
    long, short = int(rng.integers(240, 321)), int(rng.integers(200, 241))
    width, height = (long, short) if rng.random() < 0.7 else (short, long)
    names = tuple(_VESSELS) if rng.random() < 0.12 else dish.vessels
    vessel = _VESSELS[names[rng.integers(len(names))]]
    # People hold a phone at 45 to 90 degrees, and nearer or farther.
    radius = min(width, height) * rng.uniform(0.34, 0.68) / math.sqrt(vessel.stretch)
    if vessel is _VESSELS["small"]:
        radius *= 0.9
    x, y = width * rng.uniform(0.38, 0.62), height * rng.uniform(0.4, 0.58)
    view = _View(x, y, radius, rng.uniform(0.68, 1.0), vessel.stretch)
    image = _table(rng, width, height)
    _things(rng, image, view)
    _draw_vessel(rng, image, vessel, view)
    food = _View(x, y, radius * vessel.food, view.ratio, vessel.stretch)
    colour = _jitter(rng, dish.colour, 16)
    _fill(rng, image, dish, food, colour)
    layers = [layer for layer in dish.layers[1:] if rng.random() > 0.12]
    if rng.random() < 0.35:
        layers.append(Layer(_GARNISHES[rng.integers(len(_GARNISHES))], int(rng.integers(2, 12))))
    _scatter(rng, image, [dish.layers[0], *layers], food)
    return _photograph(rng, image)


@lru_cache(maxsize=16)
def _noise(cell: int) -> Floats:
    """Return a tile (640, 640) of smooth noise in 0 … 1, with bumps of `cell` pixels."""
    size = _TILE // cell + 2
    values = np.random.default_rng(cell).random((size, size), dtype=np.float32)
    image = Image.fromarray(values).resize((_TILE, _TILE), Image.Resampling.BICUBIC)
    return np.asarray(image).clip(0, 1)


def _crop(rng: Random, cell: int, height: int, width: int) -> Floats:
    top, left = rng.integers(_TILE - height), rng.integers(_TILE - width)
    return _noise(cell)[top : top + height, left : left + width]


def _jitter(rng: Random, colour: Colour, amount: float) -> Colour:
    shift = rng.normal(0, amount * 0.5) + rng.normal(0, amount * 0.5, 3)
    red, green, blue = (int(value) for value in (np.array(colour) + shift).clip(4, 252))
    return red, green, blue


def _image(values: NDArray[np.floating[Any]]) -> Image.Image:
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def _table(rng: Random, width: int, height: int) -> Image.Image:
    kind, colour = _TABLES[rng.integers(len(_TABLES))]
    shade = 0.9 + 0.2 * _crop(rng, 80, height, width)
    if kind == "wood":
        # A few rows of noise, drawn out, are a grain.
        rows = _crop(rng, 4, height, 24)
        grain = Image.fromarray(rows).resize((width, height), Image.Resampling.BICUBIC)
        shade = shade * (0.82 + 0.3 * np.asarray(grain))
        plank, phase = rng.integers(40, 90), rng.integers(90)
        shade[(np.arange(height) + phase) % plank < 2] *= 0.7
    elif kind == "cloth":
        period = int(rng.integers(14, 40))
        down = (np.arange(height) // period % 2)[:, None]
        across = (np.arange(width) // period % 2)[None]
        shade = shade * (1 - rng.uniform(0, 0.25) * (down + across))
        shade = shade * (0.92 + 0.16 * _crop(rng, 2, height, width))
    elif kind == "mat":
        shade = shade * (0.85 + 0.2 * (np.arange(height) % 7 > 1)[:, None])
    else:
        shade = shade * (0.85 + 0.3 * _crop(rng, 20, height, width) ** 2)
    if kind != "cloth" and rng.random() < 0.4:
        shade = np.ascontiguousarray(shade[:, ::-1])
    return _image(shade[..., None] * np.array(_jitter(rng, colour, 14), np.float32))


def _shadow(image: Image.Image, box: tuple[float, ...], blur: float, dark: float) -> None:
    """Darken the image softly; drawn at a quarter of the size, where blurring is cheap."""
    width, height = image.size
    small = Image.new("L", (width // 4 + 1, height // 4 + 1))
    ImageDraw.Draw(small).ellipse([value / 4 for value in box], fill=int(255 * dark))
    mask = small.filter(ImageFilter.GaussianBlur(blur / 4)).resize((width, height))
    image.paste((18, 12, 10), mask=mask)


def _things(rng: Random, image: Image.Image, view: _View) -> None:
    """Put beside the vessel what lies on tables: side dishes, chopsticks, a cup, a napkin."""
    width, height = image.size
    names = tuple(INGREDIENTS)
    for _ in range(rng.integers(0, 4)):
        angle, far = rng.uniform(0, 2 * math.pi), rng.uniform(1.35, 1.8)
        x = view.x + math.cos(angle) * view.radius * far * view.stretch
        y = view.y + math.sin(angle) * view.radius * far * view.ratio
        radius = view.radius * rng.uniform(0.28, 0.45)
        if not (-radius < x < width + radius and -radius < y < height + radius):
            continue
        side = _View(x, y, radius, view.ratio)
        _draw_vessel(
            rng, image, _VESSELS[("small", "steel", "dark", "celadon")[rng.integers(4)]], side
        )
        if rng.random() < 0.8:
            name = names[rng.integers(len(names))]
            amount = max(3, int(1.2 / INGREDIENTS[name].size ** 1.5))
            _scatter(rng, image, [Layer(name, min(amount, 22), "pile")], side, grow=1.5)
    if rng.random() < 0.55:
        _sticks(rng, image, view)


def _sticks(rng: Random, image: Image.Image, view: _View) -> None:
    """Lay down chopsticks, and perhaps a spoon."""
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
                draw.ellipse((x - dx - bowl + shift, y - dy - bowl * 1.3 + shift,
                              x - dx + bowl + shift, y - dy + bowl * 1.3 + shift), tone)  # fmt: skip
    small = layer.reduce(2)
    image.paste(small, mask=small)


def _draw_vessel(rng: Random, image: Image.Image, vessel: _Vessel, view: _View) -> None:
    lean = vessel.depth * math.sqrt(max(0.0, 1 - view.ratio**2))
    _shadow(image, view.box(1.02, down=lean * 0.6 + 0.07), view.radius * 0.16, 0.62)
    # Drawn twice as large in its own box, then reduced: smooth edges.
    left, top, right, bottom = (int(value) for value in view.box(1.06))
    bottom += int(lean * view.radius) + 2
    layer = Image.new("RGBA", ((right - left) * 2, (bottom - top) * 2))
    draw = ImageDraw.Draw(layer)
    own = _View(view.x - left, view.y - top, view.radius, view.ratio, view.stretch)
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
    if vessel is _VESSELS["basket"]:
        for step in range(-8, 9):
            x = (own.x + own.radius * step / 9.5) * 2
            half = own.radius * own.ratio * 0.9 * math.sqrt(1 - (step / 9.5) ** 2) * 2
            draw.line((x, own.y * 2 - half, x, own.y * 2 + half), (150, 110, 62, 150), 3)
    small = layer.reduce(2)
    image.paste(small, (left, top), small)


def _mask(
    rng: Random, view: _View, size: tuple[int, int], rough: float
) -> tuple[Image.Image, Floats]:
    """Return a soft mask of the food's region, and the distance from its middle (H, W)."""
    width, height = size
    ys, xs = np.ogrid[:height, :width]
    dx = (xs.astype(np.float32) - view.x) / (view.radius * view.stretch)
    dy = (ys.astype(np.float32) - view.y) / (view.radius * view.ratio)
    distance = np.sqrt(dx * dx + dy * dy)
    if rough:
        distance = distance + rough * (_crop(rng, 40, height, width) - 0.5)
    inside = ((1 - distance) * (view.radius * 0.8 if not rough else 12)).clip(0, 1)
    return _image(inside * 255), distance


def _fill(rng: Random, image: Image.Image, dish: Dish, view: _View, colour: Colour) -> None:
    """Draw the base: broth, rice, noodles, sauce, pancake, or the ground of a pile."""
    width, height = image.size
    base = dish.base
    if base == "none":
        if all(layer.where != "pile" for layer in dish.layers):
            return
        view = _View(view.x, view.y, view.radius * 0.6, view.ratio, view.stretch)
        colour = _jitter(rng, tuple(int(value * 0.5) for value in colour), 10)  # type: ignore[arg-type]
    mask, distance = _mask(rng, view, image.size, {"none": 0.5, "pancake": 0.25}.get(base, 0.0))
    shade = 1.06 - 0.3 * (distance.clip(0, 1) ** 3)
    ground = np.array(colour, np.float32)
    if base == "rice":
        shade = shade * (0.72 + 0.42 * _crop(rng, 4, height, width))
    elif base == "pancake":
        brown = (_crop(rng, 20, height, width) * 1.6 - 0.5 + 0.4 * distance).clip(0, 1)[..., None]
        ground = ground * (1 - brown) + np.array((140, 78, 34), np.float32) * brown
        shade = shade * (0.9 + 0.2 * _crop(rng, 4, height, width))
    else:
        shade = shade * (0.84 + 0.3 * _crop(rng, 20, height, width))
    values = shade[..., None] * ground
    if base in ("broth", "sauce"):
        # Oil and the light of a window lie on what is wet.
        wet = ((_crop(rng, 8, height, width) - 0.72) * 4).clip(0, 1) * (
            0.35 if base == "broth" else 0.55
        )
        values += 110 * wet[..., None]
    layer = _image(values)
    if base == "noodles":
        _noodles(rng, layer, view, colour)
    image.paste(layer, mask=mask)


def _noodles(rng: Random, layer: Image.Image, view: _View, colour: Colour) -> None:
    """Lay strands in loops; the ones below are darker."""
    draw = ImageDraw.Draw(layer)
    turn = np.linspace(0, 1, 14)
    thick = max(2, round(view.radius * rng.uniform(0.03, 0.05)))
    count = 90
    for index in range(count):
        light = 0.62 + 0.5 * index / count + rng.normal(0, 0.05)
        tone = tuple(int(min(255, value * light)) for value in colour)
        angles = rng.uniform(0, 2 * math.pi) + turn * rng.uniform(1.2, 3.4)
        loop = view.radius * rng.uniform(0.25, 0.8)
        x = view.x + view.radius * rng.normal(0, 0.4) + loop * np.cos(angles)
        y = view.y + (view.radius * rng.normal(0, 0.4) + loop * np.sin(angles)) * view.ratio
        draw.line(np.stack([x, y], 1).ravel().tolist(), tone, thick, "curve")


def _places(rng: Random, layer: Layer, count: int, angle: float) -> Floats:
    """Return where pieces lie, (count, 2), in the unit disc."""
    spread = np.sqrt(rng.random(count))
    turns = rng.uniform(0, 2 * math.pi, count)
    if layer.where == "centre":
        spread *= 0.32
    elif layer.where == "pile":
        spread *= 0.66
    elif layer.where == "rim":
        spread = rng.normal(0.74, 0.06, count)
        turns = angle + np.linspace(0, rng.uniform(1.5, 6.3), count, endpoint=False)
    elif layer.where == "sector":
        spread = 0.25 + 0.62 * spread
        turns = angle + rng.normal(0, 0.24, count)
    elif layer.where == "row":
        per_row = max(3, math.ceil(math.sqrt(count * 1.6)))
        rows = math.ceil(count / per_row)
        index = np.arange(count)
        x = ((index % per_row + 0.5) / per_row - 0.5) * 1.35
        y = ((index // per_row + 0.5) / rows - 0.5) * min(1.2, 0.5 * rows)
        x, y = x + rng.normal(0, 0.03, count), y + rng.normal(0, 0.03, count)
        tilt = angle * 0.1
        return np.stack([x * math.cos(tilt) - y * math.sin(tilt),
                         x * math.sin(tilt) + y * math.cos(tilt)], 1).astype(np.float32)  # fmt: skip
    else:
        spread *= 0.86
    return np.stack([spread * np.cos(turns), spread * np.sin(turns)], 1).astype(np.float32)


def _scatter(
    rng: Random, image: Image.Image, layers: list[Layer], view: _View, grow: float = 1.0
) -> None:
    """Lay the pieces: what belongs to a pile mixed, the rest layer by layer."""
    angle = rng.uniform(0, 2 * math.pi)
    pieces: list[tuple[float, float, str, int]] = []
    for order, layer in enumerate(layers):
        count = max(1, round(layer.amount * rng.uniform(0.6, 1.25)))
        own = angle + 2 * math.pi * order / max(3, len(layers))
        # One big thing is laid as it is; small ones heap up toward the middle.
        places = _places(rng, layer, count, own)
        level = 0 if layer.where == "pile" and INGREDIENTS[layer.ingredient].size > 0.06 else order
        pieces += [(float(u), float(v), layer.ingredient, level) for u, v in places]
    pieces.sort(key=lambda item: (item[3], item[1]))
    tint = rng.normal(1, 0.08)
    scale = grow * rng.uniform(1.1, 1.45)
    for u, v, name, _ in pieces:
        colours, cover = piece(name, int(rng.integers(VARIANTS)))
        length = view.radius * INGREDIENTS[name].size * scale * rng.uniform(0.8, 1.2)
        side = max(3, round(length * SPRITE / PIECE))
        squashed = max(3, round(side * math.sqrt(view.ratio)))
        laid = colours.resize((side, squashed), Image.Resampling.BILINEAR, reducing_gap=2.0)
        mask = cover.resize((side, squashed), Image.Resampling.BILINEAR, reducing_gap=2.0)
        light = max(0, min(len(_LIGHTS) - 1, round(8 * tint * rng.normal(1, 0.09))))
        x = round(view.x + u * view.radius * view.stretch - side / 2)
        y = round(view.y + v * view.radius * view.ratio - squashed / 2)
        image.paste(laid.point(_LIGHTS[light]), (x, y), mask)


def _photograph(rng: Random, image: Image.Image) -> Image.Image:
    """Light the scene from one side, then see it through a phone's camera."""
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    width, height = image.size
    if rng.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.6)))
    image = ImageEnhance.Color(image).enhance(rng.uniform(0.65, 1.3))
    ys = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    xs = np.linspace(-1, 1, width, dtype=np.float32)
    angle, strength = rng.uniform(0, 2 * math.pi), rng.uniform(0, 0.32)
    light = 1 + strength * (math.cos(angle) * xs + math.sin(angle) * ys)
    light -= rng.uniform(0, 0.16) * (xs * xs + ys * ys)
    cast = rng.uniform(0.68, 1.22) * np.exp(rng.normal(0, 0.07, 3))
    grain = (_crop(rng, 1, height, width) - 0.5) * rng.uniform(0, 26)
    channels = [
        (np.asarray(channel) * (light * np.float32(gain)) + grain).clip(0, 255).astype(np.uint8)
        for channel, gain in zip(image.split(), cast, strict=True)
    ]
    return Image.merge("RGB", [Image.fromarray(channel) for channel in channels])
