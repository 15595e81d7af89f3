"""Renders pages: one HTML file with its style, figures, photos and glyphs inside.

Only the page of a review has a script, which its policy names by a digest.
"""

import base64
import io
import re
import unicodedata
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape
from numpy.typing import NDArray
from PIL import Image

from training.files import write_text
from training.pages.fonts import font_files, needed, runs

_JPEG_QUALITY = 82
_BEYOND = 0x530
"""The first character after Latin, Greek and Cyrillic."""
_SIGNS = range(0x2000, 0x2C00)
"""Dashes, arrows, symbols: every system has them."""
_KINDS = ("L", "M", "N", "Po")
_JOINERS = "\u200c\u200d\u25cc"
"""Characters that join or separate letters, and the circle under a mark without a letter."""


def write(template: str, out: Path, context: Mapping[str, Any]) -> None:
    """Render a template of `training/pages/templates` into the file `out`."""
    write_text(out, render(template, context))


def render(template: str, context: Mapping[str, Any]) -> str:
    """Return a template of `training/pages/templates` as a page, with the glyphs that it needs."""
    page = _environment().get_template(template).render(context)
    return page.replace("/*GLYPHS*/", glyphs(page))


def picture(image: Image.Image | NDArray[np.uint8], side: int) -> str:
    """Return a picture as a data URI, no side longer than `side` pixels."""
    photo = image if isinstance(image, Image.Image) else Image.fromarray(image)
    photo = photo.convert("RGB")
    photo.thumbnail((side, side))
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def glyphs(page: str) -> str:
    """Return the CSS of fonts with the glyphs of a page that a reader's machine may lack.

    A page in Latin letters needs none.
    """
    text = re.sub(r'"data:[^"]*"', "", page)
    # Every system has Latin, Greek, Cyrillic and signs, but not every other script.
    wanted = {
        c
        for c in text
        if ord(c) >= _BEYOND and ord(c) not in _SIGNS and unicodedata.category(c).startswith(_KINDS)
    }
    return "".join(
        _face(path, "".join(sorted(c for c in wanted if (path, c) in runs(c))))
        for path in needed(wanted)
    )


@cache
def _face(path: Path, characters: str) -> str:
    """Return the CSS of a WOFF font with these characters of a font; '' if there are none."""
    from fontTools.subset import Options, Subsetter, load_font, save_font

    if not characters:
        return ""
    main = path == font_files()[0]
    # Hangul and Han letters stand side by side. Other scripts need the rules by which letters join
    # and stack, and the parts into which browsers decompose some vowels.
    features = [] if main else ["*"]
    if not main:
        characters = "".join(sorted({*characters, *unicodedata.normalize("NFD", characters)}))
        characters += _JOINERS
    options = Options(hinting=False, layout_features=features, notdef_outline=True, flavor="woff")
    buffer = io.BytesIO()
    with load_font(str(path), options, lazy=True) as font:
        subsetter = Subsetter(options)
        subsetter.populate(text=characters)
        subsetter.subset(font)
        save_font(font, buffer, options)
    ranges = ",".join(f"U+{ord(c):X}" for c in characters)
    return (
        f"@font-face{{font-family:'Page glyphs';unicode-range:{ranges};"
        f"src:url('data:font/woff;base64,{base64.b64encode(buffer.getvalue()).decode()}') "
        "format('woff')}"
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("training.pages"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent, "span": span, "duration": duration, "value": value, "formula": formula,
        "points": points, "points_span": points_span,
    }  # fmt: skip
    return environment


def percent(share: float | None, digits: int = 1) -> str:
    """Return a fraction as a percentage, e.g. '59.4 %'; a dash for none."""
    return "–" if share is None or np.isnan(share) else f"{share * 100:.{digits}f} %"


def span(interval: tuple[float, float] | None, digits: int = 1) -> str:
    """Return an interval of fractions, e.g. '59.4 to 64.8 %'."""
    if interval is None or np.isnan(interval[0]):
        return "–"
    return f"{interval[0] * 100:.{digits}f} to {interval[1] * 100:.{digits}f} %"


def points(difference: float, digits: int = 1) -> str:
    """Return a difference of fractions in percentage points, e.g. '+1.2'."""
    return f"{difference * 100:+.{digits}f}"


def points_span(interval: tuple[float, float] | None, digits: int = 1) -> str:
    """Return an interval of differences in points, e.g. '-0.4 to +2.1'."""
    return "–" if interval is None else " to ".join(points(end, digits) for end in interval)


def duration(seconds: float | None) -> str:
    """Return seconds as '2 h 05 min', '3 min 20 s' or '12.3 s'."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours} h {minutes_left:02} min" if hours else f"{minutes} min {rest:02} s"


def value(anything: object) -> str:
    """Return a setting or a number as text: four digits, yes or no, a dash for none."""
    if anything is None:
        return "–"
    if isinstance(anything, bool):
        return "yes" if anything else "no"
    if isinstance(anything, float):
        return f"{anything:.4g}"
    return str(anything)


def formula(text: str) -> Markup:
    """Return a formula as HTML, with subscripts for what follows an underscore."""
    return Markup(re.sub(r"_([\w+-]+)", r"<sub>\1</sub>", str(escape(text))))  # noqa: S704
