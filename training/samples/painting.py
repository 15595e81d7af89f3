"""Draws a dish on a table as a phone would photograph it, in about 10 ms.

    table ─► things beside ─► vessel ─► base ─► pieces ─► light, colour cast, blur, noise

A picture is a function of its seed. Pieces are drawn once per process, in some variants of each
kind, with light from the upper left. A picture scales and tints them.

Shapes: H height, W width. In a vessel's own coordinates its opening is the unit disc.
"""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from training.samples.dishes import INGREDIENTS, Colour, Dish, Layer
from training.samples.pieces import PIECE, SPRITE, VARIANTS, piece
from training.samples.table import (
    VESSELS,
    Floats,
    Random,
    View,
    as_image,
    crop_noise,
    draw_sticks,
    draw_table,
    draw_vessel,
    jitter,
)

_LIGHTS = [[min(255, value * step // 8) for value in range(256)] * 3 for step in range(14)]
"""Tables that make a piece darker (below 8) or brighter."""
_GARNISHES = ("sesame", "scallion", "chilli flakes", "lettuce", "kimchi", "egg strip", "pepper")


def paint(dish: Dish, seed: int) -> Image.Image:
    """Draw one picture of a dish, RGB, 200 to 320 pixels wide and high."""
    rng = np.random.default_rng(seed)
    long, short = int(rng.integers(240, 321)), int(rng.integers(200, 241))
    width, height = (long, short) if rng.random() < 0.7 else (short, long)
    names = tuple(VESSELS) if rng.random() < 0.12 else dish.vessels
    vessel = VESSELS[names[rng.integers(len(names))]]
    # People hold a phone at 45 to 90 degrees, and nearer or farther.
    radius = min(width, height) * rng.uniform(0.34, 0.68) / math.sqrt(vessel.stretch)
    if vessel is VESSELS["small"]:
        radius *= 0.9
    x, y = width * rng.uniform(0.38, 0.62), height * rng.uniform(0.4, 0.58)
    view = View(x, y, radius, rng.uniform(0.68, 1.0), vessel.stretch)
    image = draw_table(rng, width, height)
    _things(rng, image, view)
    draw_vessel(rng, image, vessel, view)
    food = View(x, y, radius * vessel.food, view.ratio, vessel.stretch)
    colour = jitter(rng, dish.colour, 16)
    _fill(rng, image, dish, food, colour)
    layers = [layer for layer in dish.layers[1:] if rng.random() > 0.12]
    if rng.random() < 0.35:
        layers.append(Layer(_GARNISHES[rng.integers(len(_GARNISHES))], int(rng.integers(2, 12))))
    _scatter(rng, image, [dish.layers[0], *layers], food)
    return _photograph(rng, image)


def _things(rng: Random, image: Image.Image, view: View) -> None:
    """Draw what lies on the table beside the vessel: side dishes and chopsticks."""
    width, height = image.size
    names = tuple(INGREDIENTS)
    for _ in range(rng.integers(0, 4)):
        angle, far = rng.uniform(0, 2 * math.pi), rng.uniform(1.35, 1.8)
        x = view.x + math.cos(angle) * view.radius * far * view.stretch
        y = view.y + math.sin(angle) * view.radius * far * view.ratio
        radius = view.radius * rng.uniform(0.28, 0.45)
        if not (-radius < x < width + radius and -radius < y < height + radius):
            continue
        side = View(x, y, radius, view.ratio)
        draw_vessel(
            rng, image, VESSELS[("small", "steel", "dark", "celadon")[rng.integers(4)]], side
        )
        if rng.random() < 0.8:
            name = names[rng.integers(len(names))]
            amount = max(3, int(1.2 / INGREDIENTS[name].size ** 1.5))
            _scatter(rng, image, [Layer(name, min(amount, 22), "pile")], side, grow=1.5)
    if rng.random() < 0.55:
        draw_sticks(rng, image, view)


def _mask(
    rng: Random, view: View, size: tuple[int, int], rough: float
) -> tuple[Image.Image, Floats]:
    """Return a soft mask of the food's region, and how far pixels are from its middle, (H, W)."""
    width, height = size
    ys, xs = np.ogrid[:height, :width]
    dx = (xs.astype(np.float32) - view.x) / (view.radius * view.stretch)
    dy = (ys.astype(np.float32) - view.y) / (view.radius * view.ratio)
    distance = np.sqrt(dx * dx + dy * dy)
    if rough:
        distance = distance + rough * (crop_noise(rng, 40, height, width) - 0.5)
    inside = ((1 - distance) * (view.radius * 0.8 if not rough else 12)).clip(0, 1)
    return as_image(inside * 255), distance


def _fill(rng: Random, image: Image.Image, dish: Dish, view: View, colour: Colour) -> None:
    """Draw the base of a dish: broth, rice, noodles, sauce, pancake, or the ground of a pile."""
    width, height = image.size
    base = dish.base
    if base == "none":
        if all(layer.where != "pile" for layer in dish.layers):
            return
        view = View(view.x, view.y, view.radius * 0.6, view.ratio, view.stretch)
        colour = jitter(rng, tuple(int(value * 0.5) for value in colour), 10)  # type: ignore[arg-type]
    mask, distance = _mask(rng, view, image.size, {"none": 0.5, "pancake": 0.25}.get(base, 0.0))
    shade = 1.06 - 0.3 * (distance.clip(0, 1) ** 3)
    ground = np.array(colour, np.float32)
    if base == "rice":
        shade = shade * (0.72 + 0.42 * crop_noise(rng, 4, height, width))
    elif base == "pancake":
        brown = (crop_noise(rng, 20, height, width) * 1.6 - 0.5 + 0.4 * distance).clip(0, 1)[
            ..., None
        ]
        ground = ground * (1 - brown) + np.array((140, 78, 34), np.float32) * brown
        shade = shade * (0.9 + 0.2 * crop_noise(rng, 4, height, width))
    else:
        shade = shade * (0.84 + 0.3 * crop_noise(rng, 20, height, width))
    values = shade[..., None] * ground
    if base in ("broth", "sauce"):
        # Wet food reflects oil and the light of a window.
        wet = ((crop_noise(rng, 8, height, width) - 0.72) * 4).clip(0, 1) * (
            0.35 if base == "broth" else 0.55
        )
        values += 110 * wet[..., None]
    layer = as_image(values)
    if base == "noodles":
        _noodles(rng, layer, view, colour)
    image.paste(layer, mask=mask)


def _noodles(rng: Random, layer: Image.Image, view: View, colour: Colour) -> None:
    """Draw strands in loops, the lower ones darker."""
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
                         x * math.sin(tilt) + y * math.cos(tilt)], 1).astype("f4")  # fmt: skip
    else:
        spread *= 0.86
    return np.stack([spread * np.cos(turns), spread * np.sin(turns)], 1).astype(np.float32)


def _scatter(
    rng: Random, image: Image.Image, layers: list[Layer], view: View, grow: float = 1.0
) -> None:
    """Draw the pieces: those of piles mixed, the others layer by layer."""
    angle = rng.uniform(0, 2 * math.pi)
    pieces: list[tuple[float, float, str, int]] = []
    for order, layer in enumerate(layers):
        count = max(1, round(layer.amount * rng.uniform(0.6, 1.25)))
        own = angle + 2 * math.pi * order / max(3, len(layers))
        # Large pieces of a pile lie at the bottom, small ones in the order of their layers.
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
    """Light the scene from one side, then blur, tint and grain it as a phone's camera would."""
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
    grain = (crop_noise(rng, 1, height, width) - 0.5) * rng.uniform(0, 26)
    channels = [
        (np.asarray(channel) * (light * np.float32(gain)) + grain).clip(0, 255).astype(np.uint8)
        for channel, gain in zip(image.split(), cast, strict=True)
    ]
    return Image.merge("RGB", [Image.fromarray(channel) for channel in channels])
