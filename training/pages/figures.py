"""What every figure shares: its fonts, its colours, and its three forms.

A figure is drawn once, and saved as PNG and SVG on white. In the page, each colour of the SVG is a
CSS variable, so that the figure follows the reader's light or dark theme.
"""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
from cycler import cycler
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import LogFormatter

from training.files import replacing
from training.pages.fonts import font_files, needed

INK, MUTED, GRID, PAPER = "#1c1b1a", "#6b6763", "#dedad5", "#ffffff"
BLUE, ORANGE, GREEN, RED, PURPLE, TEAL = (
    "#1f6fb2", "#b8500f", "#2a7f4f", "#b3261e", "#7a4fb0", "#0f7d8c",
)  # fmt: skip
SERIES = (BLUE, ORANGE, GREEN, PURPLE, RED, TEAL)
"""Colours of curves in one figure; each has at least 4.5 : 1 contrast to the paper."""

VARIABLES = {
    INK: "ink", MUTED: "muted", GRID: "grid", PAPER: "paper", BLUE: "blue", ORANGE: "orange",
    GREEN: "green", RED: "red", PURPLE: "purple", TEAL: "teal",
}  # fmt: skip
"""Colour → its CSS variable in the page, which has a light and a dark value."""


_WIDTH_IN, _HEIGHT_IN = 5.2, 3.4
_PNG_DPI = 160


@dataclass(frozen=True, slots=True)
class PageFigure:
    """A finished figure, ready for a page."""

    name: str
    """File name without its ending."""
    title: str
    alt: str
    """For readers who cannot see it: the main numbers in it, in a sentence."""
    svg: str
    """For the page: an `<svg>` element that follows the page's theme."""
    wide: bool = False
    """Whether it needs the whole width of the page."""
    width_in: float = _WIDTH_IN
    """How wide it was drawn, in inches."""


@cache
def _family(path: Path) -> str:
    font_manager.fontManager.addfont(str(path))
    return font_manager.FontProperties(fname=str(path)).get_name()


def _families(paths: Sequence[Path]) -> list[str]:
    # matplotlib comes with DejaVu, which has signs that none of our fonts has.
    return [*map(_family, paths), "DejaVu Sans"]


def _texts(figure: Figure) -> list[Text]:
    """Return all texts of a figure, also tick labels, which matplotlib makes only when it draws."""
    for one in figure.axes:
        for axis in (one.xaxis, one.yaxis):
            axis.get_ticklabels(which="both")
    return figure.findobj(Text)


@contextmanager
def axes(
    width_in: float = _WIDTH_IN, height_in: float = _HEIGHT_IN, *, rows: tuple[int, ...] = (1,)
) -> Iterator[tuple[Figure, list[Axes]]]:
    """Yield an empty figure and its axes, one below the other, with one x axis.

    `rows` are the relative heights of the axes.
    """
    settings: Any = {
        "font.family": _families(font_files()[:1]),
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": MUTED,
        "axes.labelcolor": MUTED,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.prop_cycle": cycler(color=SERIES),
        "grid.color": GRID,
        "grid.linewidth": 0.8,
        "lines.linewidth": 1.8,
        "text.color": INK,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        # A class may be named "$5 menu": what stands between two dollars is text, too.
        "text.parse_math": False,
        "legend.frameon": False,
        "legend.fontsize": 9,
        # Shapes, not text: a reader's machine may not have the font.
        "svg.fonttype": "path",
        "svg.hashsalt": "hansang",
    }
    with mpl.rc_context(settings):
        figure = Figure(figsize=(width_in, height_in), layout="constrained", facecolor=PAPER)
        grid = figure.subplots(
            len(rows), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": rows}
        )
        for axis in grid.flat:
            axis.set_facecolor("none")
        yield figure, list(grid.flat)


class _PlainNumbers(LogFormatter):
    """Writes 0.1, where matplotlib's own writes a formula, which is text here."""

    def _num_to_string(self, x: float, _vmin: float, _vmax: float) -> str:
        return f"{x:g}"


def log_scale(axis: Axes) -> None:
    """Make the y axis of a figure logarithmic."""
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter(_PlainNumbers())
    axis.yaxis.set_minor_formatter(_PlainNumbers(minor_thresholds=(1, 0.4)))


def save(
    figure: Figure, folder: Path, name: str, *, title: str, alt: str, wide: bool = False
) -> PageFigure:
    """Write `<name>.png` and `<name>.svg` into a folder; return the figure for a page."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = _texts(figure)
    # Only the fonts that are needed: matplotlib searches all of them for every text, many times.
    families = _families(needed(text.get_text() for text in texts))
    for text in texts:
        text.set_fontfamily(families)
    buffer = io.StringIO()
    with mpl.rc_context({"font.family": families}):
        with replacing(folder / f"{name}.png") as path:
            figure.savefig(path, format="png", dpi=_PNG_DPI)
        # Keep the layout of the PNG: finding it takes half of the time of saving.
        figure.set_layout_engine("none")
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Title": title})
    with replacing(folder / f"{name}.svg") as path:
        path.write_text(buffer.getvalue(), encoding="utf-8")
    width_in = float(figure.get_size_inches()[0])
    return PageFigure(name, title, alt, _themed(buffer.getvalue(), name), wide, width_in)


def _themed(svg: str, name: str) -> str:
    """Return the SVG element alone, with ids that are unique in a page and colours as variables."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<title>.*?</title>|<!--.*?-->", "", svg, flags=re.S)
    svg = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    # The page draws its own background; the first patch is the figure's.
    svg = re.sub(
        r'(<g id="[^"]*-patch_1">\s*<path [^>]*style=")fill: #ffffff', r"\1fill: none", svg, count=1
    )
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    svg = re.sub(
        r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r'<svg \1 aria-hidden="true">', svg, count=1
    )
    return re.sub(r"\n\s*", "\n", svg).strip()
