"""Fixtures of training's tests: photos of one colour each, and a cache of drawn dishes."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture
def photo() -> Callable[..., bytes]:
    """`photo(3)` is a small JPEG whose colour is a function of the number."""

    def encode(number: int, size: tuple[int, int] = (48, 40)) -> bytes:
        buffer = io.BytesIO()
        colour = (number * 37 % 256, number * 91 % 256, number * 17 % 256)
        Image.new("RGB", size, colour).save(buffer, "JPEG")
        return buffer.getvalue()

    return encode


@pytest.fixture
def folder(tmp_path: Path, photo: Callable[..., bytes]) -> Callable[..., Path]:
    """`folder({"train/김밥": 3, "val/김밥": 1})` writes that many photos into each folder."""

    def write(counts: dict[str, int], root: Path = tmp_path / "photos") -> Path:
        number = 0
        for name, count in counts.items():
            (root / name).mkdir(parents=True)
            for index in range(count):
                number += 1
                (root / name / f"{index}.jpg").write_bytes(photo(number))
        return root

    return write


@pytest.fixture(scope="session")
def dishes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three drawn dishes: 48 pictures to train, 6 each to validate and to test."""
    from training.sample import draw

    return draw(tmp_path_factory.mktemp("dishes") / "photos", classes=3, per_class=20)
