"""Fixtures of training's tests: photos of one colour each, and pages in a browser."""

import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from tests.thin import thin_network

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from training.data.cache import DatasetCache


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


@pytest.fixture
def thin() -> Iterator[None]:
    """Train the thin network within this process."""
    with thin_network():
        yield


@pytest.fixture(scope="session")
def cache(dishes_cache: "DatasetCache") -> "DatasetCache":
    """The cache of the dishes; a folder of tests may override it, and the run stays as it is."""
    return dishes_cache


@pytest.fixture(scope="module")
def chromium() -> Iterator["Browser"]:
    """Debian's Chromium, started once for the tests of a file; each page has its own storage."""
    from playwright.sync_api import sync_playwright

    found = shutil.which("chromium")
    if found is None:
        pytest.skip("no chromium here: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: "Browser") -> Iterator[Callable[..., "Page"]]:
    """`open_page(path, width=390, dark=True)` opens a file in Chromium, watched.

    The page's `complaints` hold console messages, script errors and requests to anywhere.
    """

    def visit(path: Path, *, width: int = 1280, dark: bool = False) -> "Page":
        context = chromium.new_context(
            viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light"
        )
        page = context.new_page()
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request",
            lambda request: (
                request.url.startswith(("data:", path.resolve().as_uri()))
                or complaints.append(request.url)
            ),
        )
        page.goto(path.resolve().as_uri())
        page.complaints = complaints  # type: ignore[attr-defined]
        return page

    yield visit
    for context in chromium.contexts:
        context.close()
