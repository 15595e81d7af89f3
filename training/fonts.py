"""The font of every figure: Noto Sans CJK draws Hangul, Kana, Han, Latin, Greek and Cyrillic."""

from functools import cache
from importlib.resources import as_file, files

from PIL import ImageFont


@cache
def font(size_px: int) -> ImageFont.FreeTypeFont:
    """Return the font at a size; it comes with the packages, whatever the system has."""
    resource = files("cvttf_NotoSansCJK_Regular") / "NotoSansCJKtc-Regular.otf"
    with as_file(resource) as path:
        return ImageFont.truetype(path, size_px)


def shorten(text: str, size_px: int, width_px: int) -> str:
    """Return the text, its end replaced by '…' if it is wider than `width_px`."""
    if font(size_px).getlength(text) <= width_px:
        return text
    while text and font(size_px).getlength(f"{text}…") > width_px:
        text = text[:-1]
    return f"{text}…"
