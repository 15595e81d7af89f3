"""The page at `/` in Debian's Chromium with real uploads."""

import json
import re
import shutil
from collections.abc import Iterator

import pytest

from benchmarks import rig
from service.api.auth import entry, new_token

LABELS = ("김치찌개", "비빔밥", "blue <b>sky</b>")


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    """Chromium, started once; each page has its own storage."""
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium here: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, publish, process) -> Iterator[object]:
    """`page(width=390, dark=True, **config)` opens `/` of a new server; `complaints` must be empty.

    They hold console messages, script errors and requests to any other host.
    """
    publish("food", labels=LABELS, properties={"temperature": "1.5"})

    def visit(*, width: int = 1200, dark: bool = False, **config):
        port = rig.free_port()
        process(http_port=port, **config)
        opened = browser.new_page(
            viewport={"width": width, "height": 844}, color_scheme="dark" if dark else "light"
        )
        complaints = opened.complaints = []
        opened.on("console", lambda message: complaints.append(message.text))
        opened.on("pageerror", lambda error: complaints.append(str(error)))
        opened.on(
            "request",
            lambda request: f"//127.0.0.1:{port}/" in request.url or complaints.append(request.url),
        )
        opened.goto(f"http://127.0.0.1:{port}/")
        return opened

    yield visit
    for context in browser.contexts:
        context.close()


@pytest.fixture
def seen():
    """Give playwright's `expect`, which waits for what it is told to expect."""
    return pytest.importorskip("playwright.sync_api").expect


def upload(opened, *photos, into="#files"):
    """Choose photos, as a person does."""
    opened.set_input_files(
        into,
        [
            {"name": f"{at}.jpg", "mimeType": "image/jpeg", "buffer": photo}
            for at, photo in enumerate(photos)
        ],
    )


@pytest.mark.parametrize(("width", "dark"), [(390, True), (1200, False)])
def test_a_photo_is_named(page, seen, photo, width, dark):
    """On a phone and on a desk: five bars at most, the model, the time; nothing spills over."""
    opened = page(width=width, dark=dark)
    seen(opened.locator("#served")).to_have_text(
        "food version 1: 3 classes, right for 75 % of its validation photos"
    )
    upload(opened, photo("red"), into="#camera" if dark else "#files")
    seen(opened.locator("#gallery h2")).to_have_text("김치찌개")
    seen(opened.locator(".bars li")).to_have_count(3)
    seen(opened.locator(".from")).to_have_text(re.compile(r"^0\.jpg · food version 1 · \d+ ms$"))
    bars = [each.bounding_box()["width"] for each in opened.locator(".bar").all()]
    assert bars == sorted(bars, reverse=True)
    assert bars[0] > 10 * max(bars[2], 1)
    room = opened.evaluate("() => document.documentElement.scrollWidth - innerWidth")
    assert room <= 0
    assert [] == opened.complaints


def test_text_from_elsewhere_is_text(page, seen, photo):
    """A label that looks like markup is shown as it is written."""
    opened = page()
    upload(opened, photo("blue"))
    seen(opened.locator("#gallery h2")).to_have_text("blue <b>sky</b>")
    assert [] == opened.complaints


def test_a_hundred_photos_make_a_gallery(page, seen, photo):
    """They come in requests of a few, are sorted, and a broken one spares the others."""
    opened = page(queue_size=64)
    photos = [photo(("red", "green", "blue")[at % 3]) for at in range(99)] + [b"junk"]
    upload(opened, *photos)
    seen(opened.locator("#progress")).to_have_text("100 of 100 photos", timeout=30_000)
    assert 100 == opened.locator("#gallery > li").count()
    seen(opened.locator("#gallery > li").last.locator("h2")).to_contain_text("not read here")
    opened.select_option("#sort", "label")
    labels = opened.locator("#gallery h2").all_inner_texts()[1:]
    assert labels == sorted(labels, key=labels.index)
    assert 3 == len([at for at in range(99) if at == 0 or labels[at] != labels[at - 1]])
    opened.select_option("#sort", "least")
    seen(opened.locator("#gallery h2").first).to_contain_text("not read here")
    opened.click("#clear")
    assert 0 == opened.locator("#gallery > li").count()
    assert [] == opened.complaints


def test_an_unsure_answer_says_so(page, seen, photo):
    """Below the threshold that the visitor sets, no class is claimed; the words explain."""
    opened = page()
    upload(opened, photo("red"))
    seen(opened.locator("#gallery h2")).to_have_text("김치찌개")
    slider = opened.locator("#threshold")
    slider.focus()
    seen(opened.locator("#threshold-shown")).to_have_text("50 %")
    opened.keyboard.press("End")
    seen(opened.locator("#threshold-shown")).to_have_text("100.0 %")
    seen(opened.locator("#gallery h2")).to_have_text("Not sure")
    opened.locator("summary").focus()
    opened.keyboard.press("Enter")
    seen(opened.locator("#meaning")).to_contain_text("calibrated on validation photos")


def test_the_models_own_threshold_says_what_is_not_sure(page, seen, photo, publish):
    """As every other answer does, until the visitor sets another threshold."""
    weights = [[0.01 * (row == column) for column in range(3)] for row in range(3)]  # red: 0.86
    publish("food", labels=LABELS, weights=weights, properties={"min_confidence": "0.9"})
    opened = page()
    seen(opened.locator("#threshold-shown")).to_have_text("90 %")
    upload(opened, photo("red"))
    seen(opened.locator("#gallery h2")).to_have_text("Not sure")
    opened.locator("#threshold").focus()
    opened.keyboard.press("Home")
    seen(opened.locator("#gallery h2")).to_have_text("김치찌개")
    assert [] == opened.complaints


def test_a_mistake_is_reported(page, seen, photo, tmp_path):
    """Where the server keeps photos: by keyboard alone, the photo goes there with the label."""
    opened = page(width=390, capture=str(tmp_path / "kept"), capture_below=0.0, capture_rate=0.0)
    upload(opened, photo("red"))
    seen(opened.locator("#gallery h2")).to_have_text("김치찌개")
    opened.locator(".mistake summary").focus()
    opened.keyboard.press("Enter")
    opened.keyboard.press("Tab")
    for _ in range(2):
        opened.keyboard.press("ArrowDown")
    opened.keyboard.press("Tab")
    opened.keyboard.press("Enter")
    seen(opened.locator(".mistake p")).to_have_text("Kept. Thank you.")
    (about,) = (tmp_path / "kept").rglob("*.json")
    assert "비빔밥" == json.loads(about.read_text())["label"]
    assert photo("red") == about.with_suffix(".jpg").read_bytes()
    assert opened.evaluate("() => document.documentElement.scrollWidth - innerWidth") <= 0
    assert [] == opened.complaints


def test_without_capture_no_mistake_is_asked_for(page, seen, photo):
    """A server that keeps nothing offers no button."""
    opened = page()
    upload(opened, photo("red"))
    seen(opened.locator("#gallery h2")).to_be_visible()
    assert 0 == opened.locator(".mistake").count()


def test_everything_is_reached_by_keyboard_and_has_a_name(page, seen, photo):
    """Tab goes through all controls; each has a name for a screen reader."""
    opened = page()
    upload(opened, photo("red"))
    seen(opened.locator("#gallery h2")).to_be_visible()
    opened.evaluate("() => document.activeElement.blur()")
    reached = set()
    for _ in range(12):
        opened.keyboard.press("Tab")
        reached.add(
            opened.evaluate("() => document.activeElement.id || document.activeElement.tagName")
        )
    assert {"files", "camera", "sort", "threshold", "clear", "SUMMARY", "A"} <= reached
    for control in opened.locator("input:visible, select:visible, button:visible").all():
        assert control.evaluate("each => each.labels?.length || each.textContent.trim()")
    seen(opened.get_by_role("img", name="0.jpg: 김치찌개")).to_be_visible()
    assert "polite" == opened.locator("#progress").get_attribute("aria-live")


def test_a_token_is_asked_for_and_kept_in_the_page(page, seen, photo, tmp_path):
    """Without one the field appears; with it the photo is named, and nothing is stored."""
    secret, digest = new_token()
    (tmp_path / "tokens.toml").write_text(entry("kiosk", digest))
    opened = page(tokens=str(tmp_path / "tokens.toml"))
    seen(opened.locator("#token")).to_be_visible()
    seen(opened.locator("#served")).to_contain_text("send a token")
    opened.fill("#token", secret)
    opened.keyboard.press("Tab")
    seen(opened.locator("#served")).to_contain_text("3 classes")
    upload(opened, photo("green"))
    seen(opened.locator("#gallery h2")).to_have_text("비빔밥")
    assert 0 == opened.evaluate("() => localStorage.length + document.cookie.length")
