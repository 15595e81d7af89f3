"""Draws the pieces that dishes are made of: a silhouette, then light on it.

A piece is drawn four times as large, and reduced. Its blurred silhouette is taken as its height.
Slopes towards the light are bright, slopes away from it are dark, and the piece casts a shadow.
"""

import hashlib
import math
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from training.samples.dishes import INGREDIENTS, Colour

SPRITE = 96
"""Side of a sprite, in pixels."""

PIECE = 64
"""Length of a piece within its sprite, in pixels; the margin is for its shadow."""

VARIANTS = 12
"""How many pieces of each kind there are."""

_BIG = 4 * SPRITE
_HALF = 2 * PIECE
"""Half the length of a piece, in pixels of the large drawing."""


@cache
def piece(name: str, variant: int) -> tuple[Image.Image, Image.Image]:
    """Return a variant of a piece of an ingredient, turned at random: its colours and its mask.

    Both (RGB and L) are `SPRITE` pixels wide and high. The shadow is black, and partly transparent.
    """
    ingredient = INGREDIENTS[name]
    # Not Python's hash(), which differs from process to process.
    seed = int.from_bytes(hashlib.sha256(f"{name}/{variant}".encode()).digest()[:8], "big")
    rng = np.random.default_rng(seed)
    flat = Image.new("RGBA", (_BIG, _BIG))
    colour = ingredient.colours[variant % len(ingredient.colours)]
    tone = tuple(int(value) for value in (np.array(colour) + rng.normal(0, 9, 3)).clip(0, 255))
    _SHAPES[ingredient.shape](rng, ImageDraw.Draw(flat), (tone[0], tone[1], tone[2]))
    flat = flat.rotate(rng.uniform(0, 360), Image.Resampling.BILINEAR).reduce(4)
    return _lit(rng, flat, ingredient.gloss)


def _lit(
    rng: np.random.Generator, flat: Image.Image, gloss: float
) -> tuple[Image.Image, Image.Image]:
    alpha = flat.getchannel("A")
    soft = np.asarray(alpha.filter(ImageFilter.GaussianBlur(5)), np.float32) / 255
    fine = np.asarray(alpha.filter(ImageFilter.GaussianBlur(1.5)), np.float32) / 255
    rough = rng.random((SPRITE // 4, SPRITE // 4), dtype=np.float32)
    bumps = Image.fromarray(rough).resize((SPRITE, SPRITE), Image.Resampling.BICUBIC)
    height = 6 * soft * soft + 1.2 * fine + 0.5 * np.asarray(bumps)
    down, right = np.gradient(height)
    slope = down + right
    values = np.asarray(flat.convert("RGB"), np.float32)
    shade = (0.96 + 0.55 * np.tanh(1.6 * slope)).clip(0.4, 1.5)
    values = values * shade[..., None]
    shine = (np.tanh(1.6 * slope) - 0.35).clip(0, 1) * gloss * 230
    values = (values + shine[..., None]).clip(0, 255)
    # The shadow falls to the lower right, under the piece.
    fallen = Image.new("L", alpha.size)
    fallen.paste(alpha, (4, 5))
    shadow = np.asarray(fallen.filter(ImageFilter.GaussianBlur(3)), np.float32) / 255 * 0.5
    cover = np.asarray(alpha, np.float32) / 255
    whole = cover + shadow * (1 - cover)
    values = values * (cover / np.maximum(whole, 1e-6))[..., None]
    return Image.fromarray(values.astype(np.uint8)), Image.fromarray((whole * 255).astype(np.uint8))


def _points(*pairs: tuple[float, float]) -> list[tuple[float, float]]:
    """Return pixels of points in a piece's coordinates, from -1 to 1."""
    return [(_BIG / 2 + x * _HALF, _BIG / 2 + y * _HALF) for x, y in pairs]


def _oval(
    draw: ImageDraw.ImageDraw, x: float, y: float, rx: float, ry: float, fill: Colour
) -> None:
    (left, top), (right, bottom) = _points((x - rx, y - ry), (x + rx, y + ry))
    draw.ellipse((left, top, right, bottom), (*fill, 255))


def _mixed(colour: Colour, other: Colour, share: float) -> Colour:
    red, green, blue = (
        int(a * (1 - share) + b * share) for a, b in zip(colour, other, strict=True)
    )
    return red, green, blue


def _blob(
    rng: np.random.Generator, draw: ImageDraw.ImageDraw, fill: Colour, ratio: float, wave: float,
    scale: float = 1.0,
) -> None:  # fmt: skip
    """Draw a closed smooth outline that deviates from an oval by `wave`."""
    turns = np.linspace(0, 2 * math.pi, 60, endpoint=False)
    radius = np.ones(60)
    for number in range(2, 7):
        radius += wave / number * rng.normal() * np.cos(number * turns + rng.uniform(0, 6.3))
    radius = radius.clip(0.35, 1.25) * scale
    outline = zip(
        (radius * np.cos(turns)).tolist(), (radius * np.sin(turns) * ratio).tolist(), strict=True
    )
    draw.polygon(_points(*outline), (*fill, 255))


def _chunk(rng: np.random.Generator, draw: ImageDraw.ImageDraw, colour: Colour) -> None:
    corners = int(rng.integers(4, 7))
    turns = (np.arange(corners) + rng.uniform(-0.25, 0.25, corners)) * 2 * math.pi / corners
    radius = rng.uniform(0.75, 1.0, corners)
    ratio = rng.uniform(0.6, 0.9)
    pairs = [(r * math.cos(t), r * math.sin(t) * ratio) for r, t in zip(radius, turns, strict=True)]
    draw.polygon(_points(*pairs), (*colour, 255))
    # A thick outline with round joints makes the corners less sharp.
    draw.line(_points(*pairs, pairs[0], pairs[1]), (*colour, 255), 40, "curve")
    for _ in range(3):
        x, y = rng.normal(0, 0.35, 2)
        tone = _mixed(colour, (255, 240, 215) if rng.random() < 0.5 else (40, 20, 10), 0.22)
        _oval(draw, x, y * ratio, rng.uniform(0.1, 0.3), rng.uniform(0.05, 0.14), tone)


def _disc(rng: np.random.Generator, draw: ImageDraw.ImageDraw, colour: Colour) -> None:
    ratio = rng.uniform(0.78, 1.0)
    _oval(draw, 0, 0, 1, ratio, _mixed(colour, (30, 20, 10), 0.3))
    _oval(draw, 0, 0, 0.88, 0.88 * ratio, colour)
    for _ in range(7):
        x, y = rng.normal(0, 0.36, 2)
        tone = _mixed(colour, (255, 250, 225) if rng.random() < 0.5 else (70, 40, 15), 0.2)
        _oval(draw, x, y * ratio, rng.uniform(0.06, 0.2), rng.uniform(0.06, 0.16), tone)


def _ring(rng: np.random.Generator, draw: ImageDraw.ImageDraw, colour: Colour) -> None:
    ratio = rng.uniform(0.7, 1.0)
    (left, top), (right, bottom) = _points((-1, -ratio), (1, ratio))
    draw.ellipse((left, top, right, bottom), None, (*colour, 255), 52)
    draw.ellipse((left + 34, top + 34, right - 34, bottom - 34), None,
                 (*_mixed(colour, (250, 250, 220), 0.5), 255), 16)  # fmt: skip


def _leaf(rng: np.random.Generator, draw: ImageDraw.ImageDraw, colour: Colour) -> None:
    ratio = rng.uniform(0.5, 0.85)
    _blob(rng, draw, colour, ratio, 0.55)
    _blob(rng, draw, _mixed(colour, (20, 20, 10), 0.2), ratio, 0.4, 0.6)
    vein = (*_mixed(colour, (250, 245, 215), 0.45), 255)
    bend = rng.normal(0, 0.15)
    draw.line(_points((-0.85, 0), (0, bend), (0.85, 0)), vein, 14, "curve")
    for x in (-0.45, 0.0, 0.45):
        draw.line(_points((x, bend / 2), (x + 0.25, 0.4 * ratio)), vein, 7)
        draw.line(_points((x, bend / 2), (x + 0.25, -0.4 * ratio)), vein, 7)


def _curve(rng: np.random.Generator, draw: ImageDraw.ImageDraw, colour: Colour, width: int) -> None:
    bend, twist = rng.normal(0, 0.3), rng.normal(0, 0.2)
    along = np.linspace(-1, 1, 24)
    across = bend * (1 - along**2) + twist * np.sin(3 * along)
    points = _points(*zip((along * 0.94).tolist(), across.tolist(), strict=True))
    draw.line(points, (*colour, 255), width, "curve")
    for x, y in (points[0], points[-1]):
        draw.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), (*colour, 255))
    draw.line(points, (*_mixed(colour, (255, 250, 235), 0.2), 255), max(4, width // 4), "curve")


def _strip(rng: np.random.Generator, draw: ImageDraw.ImageDraw, colour: Colour) -> None:
    _curve(rng, draw, colour, int(rng.integers(24, 40)))


def _stick(rng: np.random.Generator, draw: ImageDraw.ImageDraw, colour: Colour) -> None:
    _curve(rng, draw, colour, int(rng.integers(66, 80)))


def _grain(rng: np.random.Generator, draw: ImageDraw.ImageDraw, colour: Colour) -> None:
    _oval(draw, 0, 0, 1, rng.uniform(0.45, 0.65), colour)


def _bean(rng: np.random.Generator, draw: ImageDraw.ImageDraw, colour: Colour) -> None:
    _blob(rng, draw, colour, rng.uniform(0.6, 0.85), 0.12)
    _oval(draw, 0.1, 0.05, 0.5, 0.3, _mixed(colour, (20, 10, 5), 0.15))


def _egg(rng: np.random.Generator, draw: ImageDraw.ImageDraw, colour: Colour) -> None:
    _blob(rng, draw, _mixed(colour, (200, 150, 90), 0.25), 0.9, 0.25)
    _blob(rng, draw, colour, 0.86, 0.15, 0.9)
    x, y = rng.normal(0, 0.08, 2)
    _oval(draw, x, y, 0.46, 0.44, (226, 140, 30))
    _oval(draw, x, y, 0.41, 0.39, (248, 180, 46))
    _oval(draw, x - 0.14, y - 0.15, 0.1, 0.07, (255, 236, 180))


def _roll(rng: np.random.Generator, draw: ImageDraw.ImageDraw, colour: Colour) -> None:
    _oval(draw, 0, 0, 1, 0.96, colour)
    _oval(draw, 0, 0, 0.88, 0.85, (244, 241, 232))
    for _ in range(40):
        turn, far = rng.uniform(0, 6.3), rng.uniform(0.45, 0.8)
        tone = _mixed((250, 248, 242), (190, 185, 170), float(rng.random()))
        _oval(draw, far * math.cos(turn), far * math.sin(turn) * 0.95, 0.08, 0.045, tone)
    fillings = [(240, 200, 70), (230, 125, 45), (60, 115, 45), (220, 120, 110), (225, 215, 120)]
    for index, tone in enumerate(fillings):
        turn = index * 2 * math.pi / 5 + rng.uniform(-0.3, 0.3)
        _oval(draw, 0.24 * math.cos(turn), 0.24 * math.sin(turn), 0.19, 0.17, tone)


def _dumpling(rng: np.random.Generator, draw: ImageDraw.ImageDraw, colour: Colour) -> None:
    turns = np.linspace(math.pi, 2 * math.pi, 30)
    lift = rng.uniform(0.75, 0.95)
    pairs = [(math.cos(t), math.sin(t) * lift + 0.35) for t in turns]
    pairs += [(0.6, 0.52), (0, 0.6), (-0.6, 0.52)]
    draw.polygon(_points(*pairs), (*colour, 255))
    pleat = (*_mixed(colour, (90, 60, 30), 0.35), 255)
    for t in np.linspace(math.pi * 1.12, math.pi * 1.88, 8):
        x, y = math.cos(t), math.sin(t) * lift + 0.35
        draw.line(_points((x, y), (x * 0.72, y * 0.6 + 0.14)), pleat, 9)


def _shrimp(rng: np.random.Generator, draw: ImageDraw.ImageDraw, colour: Colour) -> None:
    reach = rng.uniform(1.25, 1.6) * math.pi
    for step in np.linspace(0, 1, 30):
        turn = math.pi * 0.2 + reach * step
        x, y = 0.62 * math.cos(turn), 0.62 * math.sin(turn)
        thick = 0.34 * (1 - 0.62 * step)
        striped = int(step * 29) % 5 < 2
        _oval(
            draw, x, y, thick, thick, _mixed(colour, (255, 245, 235), 0.45) if striped else colour
        )
    turn = math.pi * 0.2 + reach
    x, y = 0.62 * math.cos(turn), 0.62 * math.sin(turn)
    draw.polygon(_points((x, y), (x + 0.3, y - 0.25), (x + 0.35, y + 0.2)), (*colour, 255))


def _fish(rng: np.random.Generator, draw: ImageDraw.ImageDraw, colour: Colour) -> None:
    draw.polygon(_points((0.6, 0), (1.0, -0.3), (0.9, 0), (1.0, 0.3)), (*colour, 255))
    _oval(draw, -0.15, 0, 0.85, 0.3, _mixed(colour, (40, 40, 50), 0.45))
    _oval(draw, -0.12, 0.07, 0.78, 0.21, _mixed(colour, (250, 235, 205), 0.25))
    for x in np.linspace(-0.55, 0.4, int(rng.integers(3, 6))):
        draw.line(_points((x, -0.2), (x + 0.12, 0.2)), (60, 36, 22, 255), 12)
    _oval(draw, -0.8, -0.06, 0.05, 0.05, (235, 230, 215))


_SHAPES = {
    "chunk": _chunk, "disc": _disc, "ring": _ring, "leaf": _leaf, "strip": _strip,
    "stick": _stick, "grain": _grain, "bean": _bean, "egg": _egg, "roll": _roll,
    "dumpling": _dumpling, "shrimp": _shrimp, "fish": _fish,
}  # fmt: skip
