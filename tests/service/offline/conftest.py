"""Photos of one colour each, for offline classification."""

from pathlib import Path

import pytest

COLOURS = ("red", "green", "blue")


@pytest.fixture
def photos(tmp_path, photo) -> Path:
    """Give a folder of 60 photos in two folders, of every format, and of what is no photo."""
    home = tmp_path / "photos"
    for number in range(60):
        colour = COLOURS[number % 3]
        kind = ("JPEG", "PNG", "WEBP")[number % 7 % 3]
        path = home / "낮" / f"{number:02d}-{colour}.{kind.lower()}"
        if number % 2:
            path = home / "night" / "late" / path.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo(colour, size=(20 + number, 16), kind=kind))
    (home / "notes.txt").write_text("no photo")
    (home / "._hidden.jpg").write_bytes(b"no photo")
    return home
