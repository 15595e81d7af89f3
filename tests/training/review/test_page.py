"""The page of a review in Debian's Chromium: real clicks and keys, and the table read back."""

import csv
import json
import re

import numpy as np
import pytest
from PIL import Image

from flows.local import relabel
from tests.training.review.drawn import CLASSES, review_of
from training.review import page as review_page
from training.review.page import write_page

HOSTILE = "<img src=x onerror=alert(1)> \"q\" 'a' 김밥 </script>"


def downloaded(page, path):
    """Download the corrections and return their rows."""
    with page.expect_download() as got:
        page.get_by_role("button", name="Download corrections.csv").click()
    assert "corrections.csv" == got.value.suggested_filename
    got.value.save_as(path)
    return list(csv.DictReader(path.read_text("utf-8-sig").splitlines()))


def test_decisions_become_a_table_that_moves_photos(opened, data, tmp_path, expect):
    """By click and by key; undone, kept over a reload, downloaded, and taken in by relabel."""
    page = opened()
    expect(page.locator("#progress")).to_have_text("0 of 25 decided")
    first, second, third, fourth, fifth = review_of(data)["suspects"][:5]
    expect(page.locator("#name")).to_have_text(first["photo"])
    page.locator("#likeliest button").first.click()
    expect(page.locator("#name")).to_have_text(second["photo"])
    page.keyboard.press("r")
    page.keyboard.press("s")
    page.keyboard.press("n")
    expect(page.locator("#progress")).to_have_text("4 of 25 decided")
    page.get_by_role("button", name="Undo").click()
    expect(page.locator("#name")).to_have_text(fourth["photo"])
    page.keyboard.press("o")
    page.keyboard.type("김치")
    page.keyboard.press("Enter")
    expect(page.locator("#name")).to_have_text(fifth["photo"])

    page.reload()
    expect(page.locator("#progress")).to_have_text("4 of 25 decided")
    page.keyboard.press("Control+z")
    page.keyboard.press("2")
    rows = downloaded(page, tmp_path / "corrections.csv")

    assert [
        (first["photo"], first["suggested"], "other"),
        (second["photo"], second["label"], "right"),
        (fourth["photo"], fourth["likeliest"][1][0], "other"),
    ] == [(row["photo"], row["label"], row["decision"]) for row in rows]
    assert third["photo"] not in {row["photo"] for row in rows}
    moves = relabel.plan(relabel.read(tmp_path / "corrections.csv"), data)
    relabel.apply(moves, data)
    assert not (data / first["photo"]).exists()
    assert 5 == len(list((data / first["split"] / first["suggested"]).iterdir()))
    assert (data / second["photo"]).exists()
    assert [] == page.complaints


def test_no_food_drops_a_photo(opened, data, tmp_path):
    """The row that the page writes moves the photo aside."""
    page = opened()
    page.locator("#drop").click()
    (row,) = downloaded(page, tmp_path / "corrections.csv")
    moves = relabel.plan(relabel.read(tmp_path / "corrections.csv"), data)
    relabel.apply(moves, data)
    assert not (data / row["photo"]).exists()
    assert (data / ".dropped" / row["photo"]).exists()


def test_filters_narrow_what_is_shown(opened, data, expect):
    """Class, kind, split, suspicion, what is decided, a pair of classes; all of it is cleared."""
    review = review_of(data)
    review["suspects"].append(review["suspects"][7] | {"kind": "dark", "note": "Lit by a candle."})
    page = opened(review)
    count = page.locator("#count")
    page.locator("[name=label]").select_option("갈비탕")
    expect(count).to_have_text("5 photos")
    page.locator("[name=split]").select_option("val")
    expect(count).to_have_text("1 photo")
    page.get_by_role("button", name="Clear filters").click()
    page.locator("[name=kind]").select_option("dark")
    expect(count).to_have_text("1 photo")
    expect(page.locator("#name")).to_have_text(review["suspects"][7]["photo"])
    expect(page.locator("#facts")).to_contain_text("doubtful label · dark")
    expect(page.locator("#note")).to_have_text("Lit by a candle.")
    page.get_by_role("button", name="Clear filters").click()
    page.locator("[name=score]").select_option("0.9")
    expect(count).to_have_text("11 photos")
    page.get_by_role("button", name="Clear filters").click()
    page.get_by_text("Classes taken for each other").click()
    page.get_by_role("button", name="5 labelled 갈비탕 that look like 설렁탕").click()
    expect(count).to_have_text("5 photos")
    page.keyboard.press("r")
    expect(count).to_have_text("4 photos")
    page.locator("[name=show]").select_option("decided")
    expect(count).to_have_text("1 photo")
    expect(page.locator("#mark")).to_have_text("decided: right")
    page.get_by_role("button", name="Clear filters").click()
    page.locator("[name=sort]").select_option("photo")
    names = page.locator("#grid li").evaluate_all("all => all.map((each) => each.title)")
    assert len(names) == 24
    assert names[0].startswith("train/")
    assert names[-1].startswith("val/")


def test_a_rectangle_on_the_map_is_a_filter(opened, data, expect):
    """What lies in its upper left quarter is shown; a click on a dot opens its photo."""
    page = opened()
    page.get_by_text("Map of the photos").click()
    canvas = page.locator("#map canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 2, box["y"] + 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + box["height"] * 0.4, steps=3)
    page.mouse.up()
    expect(page.locator("#count")).to_have_text("4 photos")
    page.get_by_role("button", name="Clear the rectangle").click()
    expect(page.locator("#count")).to_have_text("25 photos")
    page.mouse.click(box["x"] + box["width"] - 10, box["y"] + box["height"] - 10)
    expect(page.locator("#name")).to_have_text(review_of(data)["suspects"][24]["photo"])
    page.get_by_label("Colour by").select_option("kind")
    expect(page.locator("#legend")).to_have_text("doubtful label")
    page.get_by_label("Colour by").select_option("label")
    page.locator("#legend").get_by_role("button", name="김밥").click()
    expect(page.locator("#count")).to_have_text("5 photos")
    assert [] == page.complaints


def test_what_speaks_for_a_class_is_lit(opened, data, expect):
    """By key and by click; dark where nothing was seen; photos without a map offer none."""
    review = review_of(data)
    review["suspects"][0]["heat"] = "9000"
    page = opened(review)
    expect(page.locator("#heat")).to_be_hidden()
    expect(page.locator("#lit")).to_contain_text(
        f"Light what looks like {review['suspects'][0]['suggested']}"
    )
    page.keyboard.press("w")
    expect(page.locator("#heat")).to_be_visible()
    alphas = page.evaluate(
        "() => { const c = document.getElementById('heat'); return [...c.getContext('2d')"
        ".getImageData(0, 0, 2, 2).data].filter((_, at) => at % 4 === 3); }"
    )
    assert [0, 204, 204, 204] == alphas
    large, heat = (page.locator(name).bounding_box() for name in ("#large", "#heat"))
    assert large == heat
    page.locator("#why").click()
    expect(page.locator("#heat")).to_be_hidden()
    page.locator("#why").click()
    page.keyboard.press("r")
    expect(page.locator("#lit")).to_be_hidden()
    expect(page.locator("#heat")).to_be_hidden()
    assert [] == page.complaints


def test_the_keyboard_is_enough(opened, expect):
    """Tab reaches a decision, with a visible focus; consonants find a class; arrows move."""
    page = opened()
    page.keyboard.press("Tab")
    focused = page.evaluate(
        "() => [document.activeElement.id, getComputedStyle(document.activeElement).outlineWidth]"
    )
    assert ["right", "3px"] == focused  # Undo and Download have nothing to do yet
    page.keyboard.press("o")
    page.keyboard.type("ㄱㅊ")
    expect(page.get_by_role("option", name="김치찌개", exact=True)).to_have_attribute(
        "aria-selected", "true"
    )
    page.keyboard.press("Escape")
    expect(page.locator("#other")).to_be_focused()
    selected = page.locator("#grid [aria-selected=true]")
    names = page.locator("#grid li").evaluate_all("all => all.map((each) => each.title)")
    page.keyboard.press("ArrowRight")
    expect(selected).to_have_attribute("title", names[1])
    selected.focus()
    page.keyboard.press("ArrowDown")
    assert names.index(selected.get_attribute("title")) > 2
    page.keyboard.press("End")
    expect(selected).to_have_attribute("title", names[-1])
    expect(selected).to_be_focused()
    page.keyboard.press("n")
    expect(selected).to_be_focused()
    expect(page.get_by_role("status").first).to_have_text("1 of 25 decided")
    page.get_by_label("Keys decide").uncheck()
    page.keyboard.press("n")
    expect(page.locator("#progress")).to_have_text("1 of 25 decided")


@pytest.mark.parametrize(("width", "dark"), [(390, True), (1280, False)])
def test_nothing_spills_over(opened, data, width, dark, expect):
    """On a phone and on a desk, in both schemes, with 42 long names and all that opens open."""
    review = review_of(data)
    review["classes"] = CLASSES + [f"아주아주아주아주긴이름의음식{at}" * 3 for at in range(37)]
    review["suspects"][0] |= {"note": "x" * 300, "group": "y" * 200}
    page = opened(review, width=width, dark=dark)
    if width == 390:
        page.get_by_text("Filter and sort").click()
    page.get_by_text("Map of the photos").click()
    page.get_by_text("Classes taken for each other").click()
    page.locator("#other").click()
    expect(page.locator("#found li")).to_have_count(42)
    assert page.evaluate("() => document.documentElement.scrollWidth - innerWidth") <= 0
    paper = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert dark == (sum(map(int, re.findall(r"\d+", paper))) < 150)
    assert [] == page.complaints


def test_text_from_elsewhere_is_text(folder, tmp_path, open_page, expect):
    """Names that look like markup are shown as they are written, and reach the table whole."""
    label = HOSTILE.replace("/", "∕")
    data = folder({f"train/{label}": 1, "train/egg": 1}, tmp_path / "<b>photos")
    photo = f"train/{label}/0.jpg"
    review = review_of(data, [photo]) | {"classes": [label, "egg"]}
    review["suspects"][0] |= {"note": HOSTILE, "group": HOSTILE, "suggested": HOSTILE}
    review["suspects"][0]["likeliest"] = [[HOSTILE, 1.0]]
    review["pairs"] = [{"label": label, "suggested": HOSTILE, "count": 1}]
    page = open_page(write_page(review, data, tmp_path / "out")[0])
    expect(page.locator("#label")).to_have_text(label)
    expect(page.locator("#note")).to_have_text(HOSTILE)
    expect(page.locator("#likeliest .class")).to_have_text(HOSTILE)
    assert 0 == page.locator("[onerror], h1 b").count()
    page.locator("#right").click()
    rows = downloaded(page, tmp_path / "corrections.csv")
    assert [(photo, label)] == [(row["photo"], row["label"]) for row in rows]
    assert [] == relabel.plan(relabel.read(tmp_path / "corrections.csv"), data)
    assert [] == page.complaints


def test_a_browser_that_keeps_nothing(opened, tmp_path, expect):
    """The page says so, and decides all the same."""
    page = opened()
    page.add_init_script(
        "Object.defineProperty(window, 'localStorage',"
        " { get() { throw new DOMException('no', 'SecurityError'); } })"
    )
    page.reload()
    expect(page.locator("#unkept")).to_be_visible()
    page.keyboard.press("r")
    expect(page.locator("#progress")).to_have_text("1 of 25 decided")
    assert 1 == len(downloaded(page, tmp_path / "corrections.csv"))


def test_many_photos_make_parts_of_one_review(data, tmp_path, open_page, monkeypatch, expect):
    """They link to each other, share decisions, and a part of an older review goes."""
    monkeypatch.setattr(review_page, "PHOTOS_A_PAGE", 10)
    out = tmp_path / "out"
    paths = write_page(review_of(data), data, out)
    assert ["review.html", "review-2.html", "review-3.html"] == [path.name for path in paths]
    page = open_page(paths[0])
    page.keyboard.press("r")
    page.get_by_role("link", name="part 3").click()
    expect(page.locator("#progress")).to_have_text("0 of 5 decided")
    page.keyboard.press("r")
    assert 2 == len(downloaded(page, tmp_path / "corrections.csv"))

    monkeypatch.setattr(review_page, "MOST_PAGES", 2)
    page = open_page(write_page(review_of(data), data, out)[0])
    assert {"review.html", "review-2.html"} == {path.name for path in out.iterdir()}
    expect(page.get_by_text("5 less suspicious photos are in review.json alone.")).to_be_visible()


def test_photos_that_cannot_be_shown(data, opened, expect):
    """One without a picture is listed, one without a valid name is left out and counted."""
    photos = ["train/egg/0.jpg", "train/egg/1.jpg", "train/egg/\udcff.jpg"]
    (data / photos[0]).write_bytes(b"no photo")
    page = opened(review_of(data, photos, neighbours=photos))
    expect(page.locator("#gone")).to_be_visible()
    expect(page.locator("#neighbours li")).to_have_count(2)
    expect(page.get_by_text("Left out: 1 ")).to_be_visible()
    page.locator("#neighbours button").last.click()
    expect(page.locator("#large")).to_be_visible()


def test_a_photo_takes_bounded_room(data, tmp_path):
    """Noise, which JPEG cannot make small, is made small in pixels."""
    noise = np.random.default_rng(0).integers(0, 256, (600, 600, 3), dtype=np.uint8)
    Image.fromarray(noise).save(data / "train/egg/0.jpg", quality=95)
    (path,) = write_page(review_of(data, ["train/egg/0.jpg"]), data, tmp_path / "out")
    found = re.search(r'id="pictures">(.*?)</script>', path.read_text(), re.DOTALL)
    (picture,) = json.loads(found[1])
    assert 1000 < len(picture) <= review_page._PICTURE_CHARACTERS


def test_nothing_suspected(opened, data, expect):
    """The page says that nothing is left."""
    page = opened(review_of(data) | {"suspects": []})
    expect(page.locator("#nothing")).to_be_visible()
    expect(page.locator("#progress")).to_have_text("0 of 0 decided")
    page.keyboard.press("r")
    page.keyboard.press("u")
    assert [] == page.complaints
