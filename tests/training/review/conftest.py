"""A review's page, opened in Chromium."""

import pytest

from tests.training.review.drawn import CLASSES, review_of
from training.review.page import write_page


@pytest.fixture
def expect():
    """Give playwright's `expect`, which waits for what it is told to expect."""
    return pytest.importorskip("playwright.sync_api").expect


@pytest.fixture
def data(folder):
    """Four photos of each class to train, one to validate."""
    counts = {f"train/{name}": 4 for name in CLASSES} | {f"val/{name}": 1 for name in CLASSES}
    return folder(counts)


@pytest.fixture
def opened(data, tmp_path, open_page):
    """`opened(review, width=390)` writes a review and opens its first page."""

    def visit(review=None, **how):
        paths = write_page(review or review_of(data), data, tmp_path / "out")
        return open_page(paths[0], **how)

    return visit
