"""The fonts of figures and pages: one for each script in living use, whatever the system has.

Noto Sans CJK, a package, has Hangul, Kana, Han and most Latin, Greek and Cyrillic letters. The Noto
fonts in `typefaces/` have the others.
"""

import re
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from pathlib import Path

from PIL import ImageDraw, ImageFont

_MAIN = "NotoSansCJKtc-Regular.otf"


@cache
def font_files() -> tuple[Path, ...]:
    """Return the path of every font, the main one first."""
    main = Path(str(files("cvttf_NotoSansCJK_Regular") / _MAIN))
    return main, *sorted(Path(__file__).with_name("typefaces").glob("*.ttf"))


@cache
def font(path: Path, size_px: int) -> ImageFont.FreeTypeFont:
    """Return a font at a size in pixels."""
    return ImageFont.truetype(path, size_px)


def runs(text: str) -> list[tuple[Path, str]]:
    """Split a text into (font, piece): whole words if one font has all letters of a word.

    Letters that no font has go to the main one, which draws a box.
    """
    pieces: list[tuple[Path, str]] = []
    for word in re.findall(r"\s+|\S+", text):
        whole = _first_with(word)
        for part in [word] if whole else word:
            path = whole or _first_with(part) or font_files()[0]
            if pieces and path == pieces[-1][0]:
                pieces[-1] = (path, pieces[-1][1] + part)
            else:
                pieces.append((path, part))
    return pieces


def needed(texts: Iterable[str]) -> list[Path]:
    """Return the fonts that these texts need, the main one first."""
    characters = "".join(sorted({character for text in texts for character in text}))
    found = {path for character in characters for path, _ in runs(character)}
    return [path for path in font_files() if path == font_files()[0] or path in found]


def shorten(text: str, size_px: int, width_px: int) -> str:
    """Return the text, its end replaced by '…' if it is wider than `width_px`."""
    if _width(text, size_px) <= width_px:
        return text
    while text and _width(f"{text}…", size_px) > width_px:
        text = text[:-1]
    return f"{text}…"


def write(draw: ImageDraw.ImageDraw, x: float, y: float, text: str, size_px: int, ink: str) -> None:
    """Draw a text with its upper left corner at (x, y), all its scripts on one baseline."""
    ascent, _ = font(font_files()[0], size_px).getmetrics()
    for path, piece in runs(text):
        draw.text((x, y + ascent), piece, font=font(path, size_px), fill=ink, anchor="ls")
        x += font(path, size_px).getlength(piece)


def _width(text: str, size_px: int) -> float:
    return sum(font(path, size_px).getlength(piece) for path, piece in runs(text))


def _first_with(text: str) -> Path | None:
    characters = {ord(character) for character in text}
    return next((path for path in font_files() if characters <= _covered(path)), None)


@cache
def _covered(path: Path) -> frozenset[int]:
    from fontTools.ttLib import TTFont

    with TTFont(path, lazy=True) as font:
        return frozenset(font.getBestCmap())
