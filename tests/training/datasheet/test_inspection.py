"""A look at a folder says what is in it and what is wrong, also where training would refuse it."""

import json
import unicodedata

import pytest
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw

from training.data import decoding
from training.datasheet.contact_sheet import contact_sheet
from training.datasheet.inspection import inspect
from training.errors import DataError
from training.pages.figures import axes, save
from training.pages.fonts import font, font_files, runs, shorten, write

COUNTS = {"train/김밥": 3, "train/냉면": 2, "val/김밥": 1, "val/냉면": 1}


def test_a_sound_folder_is_counted(folder):
    """Counts per split and class, nothing wrong, and the whole of it is JSON."""
    root = folder(COUNTS)
    (root / "val" / "김밥" / "notes.txt").write_text("no photo")
    reports = []

    sheet = inspect(root, progress=lambda *report: reports.append(report))

    found = json.loads(json.dumps(sheet.to_dict()))
    assert {
        "folder": str(root),
        "labels": ["김밥", "냉면"],
        "counts": {"train": {"김밥": 3, "냉면": 2}, "val": {"김밥": 1, "냉면": 1}},
        "imbalance": 1.5,
        "problems": [],
        "bad_files": {},
        "duplicates_across_splits": [],
        "two_labels": [],
        "repeats": [],
        "groups": 0,
        "groups_across_splits": {},
        "bursts": 0,
        "advice": "",
        "suggested_group": "",
        "notes": {"tiny": sorted(sheet.name(photo) for photo in sheet.folder.photos)},
        "formats": {"JPEG": 7},
        "modes": {"RGB": 7},
        "orientations": {"1": 7},
        "sizes": {"min": 40, "median": 40, "max": 40},
        "decomposed_names": [],
        "ignored_files": 1,
        "left_out": {
            "lines": ["left out: 1 .txt (val/김밥/notes.txt)"],
            "counts": [
                {"kind": "no picture", "what": ".txt", "count": 1, "example": "val/김밥/notes.txt"},
            ],
            "unreadable": {},
        },
        "error": None,
    } == {name: value for name, value in found.items() if not name.startswith("channel_")}
    assert (7, 7) in reports


def test_every_bad_file_is_named_with_its_reason(folder, photo):
    """Truncated, empty and false photos are found, and are no duplicates of each other."""
    root = folder(COUNTS)
    (root / "train" / "김밥" / "cut.jpg").write_bytes(photo(1, (300, 300))[:200])
    (root / "train" / "김밥" / "empty.jpg").write_bytes(b"")
    (root / "val" / "김밥" / "empty.jpg").write_bytes(b"")
    (root / "val" / "냉면" / "text.png").write_bytes(b"hello")

    sheet = inspect(root)

    assert {
        "train/김밥/cut.jpg",
        "train/김밥/empty.jpg",
        "val/김밥/empty.jpg",
        "val/냉면/text.png",
    } == set(sheet.bad_files)
    assert all(sheet.bad_files.values())
    assert () == sheet.copies


def test_processes_see_what_threads_see(folder, monkeypatch):
    """Many photos are looked at by processes: the same sheet."""
    root = folder(COUNTS)
    (root / "train" / "냉면" / "bad.jpg").write_bytes(b"no photo")
    threads = inspect(root)
    monkeypatch.setattr(decoding, "_FEW", 0)
    assert inspect(root) == threads


def test_copies_are_sorted_by_the_harm_they_do(folder):
    """A group across splits and labels is both a leak and a conflict; one within is a repeat."""
    root = folder(COUNTS)
    data = (root / "train" / "김밥" / "0.jpg").read_bytes()
    (root / "train" / "냉면" / "copy.jpg").write_bytes(data)
    (root / "val" / "김밥" / "copy.jpg").write_bytes(data)
    (root / "train" / "김밥" / "1.jpg").write_bytes((root / "train/김밥/2.jpg").read_bytes())

    sheet = inspect(root)

    group = ["train/김밥/0.jpg", "train/냉면/copy.jpg", "val/김밥/copy.jpg"]
    assert [group] == [[sheet.name(photo) for photo in found.photos] for found in sheet.leaks()]
    assert sheet.leaks() == sheet.conflicts()
    assert [["train/김밥/1.jpg", "train/김밥/2.jpg"]] == [
        [sheet.name(photo) for photo in found.photos] for found in sheet.repeats()
    ]
    assert ["1 in more than one split", "1 under more than one label"] == sheet.problems()


@pytest.mark.parametrize(
    ("counts", "split", "sentence"),
    [
        ({"train/a": 2, "train/b": 2, "val/a": 1}, "train", "'b' is missing from"),
        ({"train/a": 2, "train/b": 2}, "train", "no val folder"),
        ({"a": 5, "b": 1}, "all", "one photo"),
        ({unicodedata.normalize("NFD", "김밥"): 3, "김밥": 3, "b": 2}, "all", "Unicode form"),
    ],
    ids=["missing class", "no val", "one photo", "equal names"],
)
def test_a_folder_that_training_refuses_is_shown_with_the_reason(
    folder, tmp_path, counts, split, sentence
):
    """What there is gets counted and drawn; the sheet says why it cannot be trained on."""
    sheet = inspect(folder(counts))
    contact_sheet(sheet, tmp_path / "sheet.png")

    assert sentence in (sheet.error or "")
    assert sum(counts.values()) == sum(sum(of.values()) for of in sheet.counts().values())
    assert split in sheet.counts()
    assert (tmp_path / "sheet.png").stat().st_size > 0


def test_a_folder_without_photos_is_an_error(tmp_path):
    """Nothing to look at is refused like anywhere else."""
    with pytest.raises(DataError, match="is not a folder"):
        inspect(tmp_path / "nowhere")
    with pytest.raises(DataError, match="has no photos"):
        inspect(tmp_path)


def test_the_picture_shows_the_first_readable_photo_of_each_class(folder, tmp_path):
    """Tiles stand in the order of the labels; a class without a readable photo gets none."""
    root = folder({"train/a": 2, "train/b": 2, "val/a": 1, "val/b": 1})
    (root / "train" / "a" / "0.jpg").write_bytes(b"junk")
    for path in root.glob("*/b/*"):
        path.write_bytes(b"junk")

    contact_sheet(inspect(root), tmp_path / "new" / "sheet.png")

    with Image.open(root / "train" / "a" / "1.jpg") as photo:
        expected = photo.convert("RGB").getpixel((20, 20))
    with Image.open(tmp_path / "new" / "sheet.png") as page:
        assert "PNG" == page.format
        colours = {colour for _, colour in page.convert("RGB").getcolors(2**24)}
        area = {colour: count for count, colour in page.convert("RGB").getcolors(2**24)}
    near = [c for c in colours if max(abs(p - q) for p, q in zip(c, expected, strict=True)) < 4]
    assert 240 * 240 * 0.9 < sum(area[colour] for colour in near) < 240 * 240 * 1.1
    assert ["sheet.png"] == [path.name for path in (tmp_path / "new").iterdir()]


@pytest.mark.parametrize("num_classes", [2, 42, 300])
def test_the_picture_fits_any_number_of_classes(folder, tmp_path, num_classes):
    """It stays near a square, and small enough to open."""
    root = folder({f"{s}/{i:03}": 1 for s in ("train", "val") for i in range(num_classes)})

    contact_sheet(inspect(root), tmp_path / "sheet.png")

    with Image.open(tmp_path / "sheet.png") as page:
        assert 0.5 < page.width / page.height < 2
        assert max(page.size) < 6000


DISHES = (
    *(
        "김밥",
        "ラーメン",
        "麻婆豆腐",
        "brûlée",
        "Борщ",
        "παστίτσιο",
        "ผัดไทย",
        "ລາບ",
        "អាម៉ុក",
        "မုန့်ဟင်းခါး",
    ),
    *("बिरयानी", "বিরিয়ানি", "ਸਾਗ", "ઢોકળા", "ଡାଲମା", "தோசை", "పెసరట్టు", "ಬಿಸಿಬೇಳೆ", "അപ്പം", "කොත්තු"),
    *("މަސްހުނި", "མོག་མོག", "كبسة", "שקשוקה", "ዶሮወጥ", "ხაჭაპური", "խորոված", "ⵜⴰⵊⵉⵏ", "ᠪᠤᠤᠽ", "ᏎᎷ"),
    *("ᓂᕿ", "ߘߋߜߋ", "ꦱꦺꦴꦠꦺꦴ", "ᱡᱤᱞᱟᱹᱯᱤ"),
)


@pytest.mark.parametrize("text", DISHES)
def test_labels_are_drawn_in_their_script(text):
    """A font that the package brings has every character; none gives the box of a missing one."""
    for path, piece in runs(text):
        with TTFont(path, lazy=True) as file:
            assert {ord(character) for character in piece} <= file.getBestCmap().keys()


def test_a_picture_and_a_figure_draw_every_script(tmp_path):
    """Each name leaves ink in the contact sheet, and no figure misses a glyph (an error here)."""
    page = Image.new("RGB", (400, 40), "white")
    for text in DISHES:
        page.paste("white", (0, 0, 400, 40))
        write(ImageDraw.Draw(page), 4, 2, text, 20, "black")
        assert page.convert("L").point(lambda v: 255 * (v < 128)).getbbox() is not None

    with axes() as (figure, (axis,)):
        axis.set_yticks(range(len(DISHES)), DISHES)
        save(figure, tmp_path, "names", title="Names", alt="Names of dishes.")


def test_a_long_label_is_shortened_to_its_room():
    """The end gives way to an ellipsis; what fits is left alone."""
    shortened = shorten("아주아주아주긴이름의비빔밥", 20, 100)

    assert shortened.endswith("…")
    assert font(font_files()[0], 20).getlength(shortened) <= 100
    assert "김밥" == shorten("김밥", 20, 100)
