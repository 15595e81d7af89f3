"""The page with 42 Korean dishes and hundreds of photos: scrolled, and decided by keys alone."""

import csv

import pytest

from training.samples.dishes import DISHES

NAMES = sorted(DISHES)


@pytest.fixture
def review(tmp_path):
    """400 photos of 42 dishes, each labelled as one and like the next; the files are gone."""
    suspects = [
        {
            "photo": f"train/{NAMES[at % 42]}/{at:03d}.jpg", "label": NAMES[at % 42],
            "suggested": NAMES[(at + 1) % 42], "score": 1 - at / 400, "kind": "label",
            "split": "train", "neighbours": [], "xy": [at % 20 / 19, at // 20 / 19],
            "likeliest": [[NAMES[(at + step) % 42], 0.5 / step] for step in range(1, 6)],
            "group": None, "note": "",
        }
        for at in range(400)
    ]  # fmt: skip
    pairs = [
        {"label": name, "suggested": NAMES[(at + 1) % 42], "count": 1}
        for at, name in enumerate(NAMES)
    ]
    return {"data": str(tmp_path), "classes": NAMES, "suspects": suspects, "pairs": pairs}


@pytest.mark.parametrize("width", [390, 1280])
def test_scrolling_reaches_every_photo(opened, review, width, expect):
    """The next photos follow, also where somebody is at the end again before they are painted."""
    page = opened(review, width=width)
    expect(page.locator("#grid li")).to_have_count(120)
    page.evaluate(
        "() => { const end = () => scrollTo(0, document.body.scrollHeight);"
        " document.getElementById('more').addEventListener('click', end); end(); }"
    )
    expect(page.locator("#grid li")).to_have_count(400)
    expect(page.locator("#more")).to_be_hidden()
    assert [] == page.complaints


def test_only_the_most_frequent_pairs_are_listed(opened, review, expect):
    """The others are found by the filters."""
    page = opened(review)
    page.get_by_text("Classes taken for each other").click()
    expect(page.locator("#pairs li")).to_have_count(30)
    expect(page.locator("#pairs li").first).to_contain_text("10 labelled")


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_and_keys_are_enough(opened, review, tmp_path, dark, expect):
    """On a narrow screen, from the first photo to the table, without a pointer."""
    page = opened(review, width=390, dark=dark)
    page.keyboard.press("Tab")
    page.keyboard.press("1")
    page.keyboard.press("o")
    page.keyboard.type("ㅂㅂㅂ")
    page.keyboard.press("Enter")
    expect(page.locator("#progress")).to_have_text("2 of 400 decided")

    for _ in range(40):
        page.keyboard.press("Tab")
        if "Filter and sort" == page.evaluate("() => document.activeElement.textContent.trim()"):
            break
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    expect(page.locator("[name=label]")).to_have_value(NAMES[0])
    expect(page.locator("#label")).to_have_text(NAMES[0])

    for _ in range(60):
        page.keyboard.press("Shift+Tab")
        if "download" == page.evaluate("() => document.activeElement.id"):
            break
    with page.expect_download() as got:
        page.keyboard.press("Enter")
    got.value.save_as(tmp_path / "corrections.csv")
    rows = list(csv.DictReader((tmp_path / "corrections.csv").read_text("utf-8-sig").splitlines()))
    assert [NAMES[1], "비빔밥"] == [row["label"] for row in rows]
    assert page.evaluate("() => document.documentElement.scrollWidth - innerWidth") <= 0
    assert [] == page.complaints
