"""Every fault that is planted in a sound folder is found, and nothing that was not planted."""

import io
import shutil
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from tests.paths import ROOT
from training.datasheet.inspection import inspect
from training.datasheet.sheet import write

GROCERY = ROOT.parent / "shared" / "data" / "grocery42"


def _edited(path: Path, **changes) -> bytes:
    """Return a photo scaled by `scale`, brightened, and compressed again."""
    with Image.open(path) as image:
        photo = image.convert("RGB")
    size = tuple(round(side * changes.get("scale", 1)) for side in photo.size)
    buffer = io.BytesIO()
    photo.resize(size, Image.Resampling.LANCZOS).save(
        buffer, "JPEG", quality=changes.get("quality", 60)
    )
    return buffer.getvalue()


@pytest.fixture
def planted(dishes, tmp_path):
    """The drawn dishes, with a fault of each kind planted; and what was planted."""
    root = shutil.copytree(dishes, tmp_path / "photos")
    first, second, third = sorted(folder.name for folder in (root / "train").iterdir())
    train, val = root / "train", root / "val"
    photos = sorted((train / first).glob("*.jpg"))
    shutil.copy(photos[0], val / first / "copied.jpg")
    (val / first / "smaller.jpg").write_bytes(_edited(photos[1], scale=0.5))
    (train / first / "cut.jpg").write_bytes(photos[2].read_bytes()[:-2000])
    (train / first / "empty.jpg").write_bytes(b"")
    shutil.copy(photos[3], train / second / "other-label.jpg")
    with Image.open(photos[4]) as image:
        image.convert("CMYK").save(train / second / "cmyk.jpg")
        image.resize((40, 30)).save(train / third / "tiny.png")
    Image.effect_noise((900, 200), 60).convert("RGB").save(train / third / "wide.jpg")
    frames = [Image.effect_noise((96, 96), 80).convert("RGB") for _ in range(2)]
    frames[0].save(train / third / "moving.webp", save_all=True, append_images=frames[1:])
    for split in (train, val):
        (split / third).rename(split / unicodedata.normalize("NFD", third))
    return root, (first, second, third), photos


def test_every_planted_fault_is_found_and_nothing_else(planted):
    """Copies, also smaller ones, truncated and empty files, two labels, NFD names, odd photos."""
    root, (first, second, third), photos = planted

    sheet = inspect(root)

    def names(found):
        return sorted(sorted(sheet.name(photo) for photo in copies.photos) for copies in found)

    taken = [f"train/{first}/{photo.name}" for photo in photos]
    assert names(sheet.leaks()) == [
        sorted([taken[0], f"val/{first}/copied.jpg"]),
        sorted([taken[1], f"val/{first}/smaller.jpg"]),
    ]
    assert ["exact", "near"] == sorted(copies.kind for copies in sheet.leaks())
    # The CMYK photo is a copy of a photo of another class, too; so is the tiny one.
    conflicts = {name for group in names(sheet.conflicts()) for name in group}
    assert {taken[3], f"train/{second}/other-label.jpg"} <= conflicts
    assert {taken[4], f"train/{second}/cmyk.jpg"} <= conflicts
    nfd = unicodedata.normalize("NFD", third)
    odd = {f"train/{nfd}/tiny.png"}
    assert conflicts - odd == {
        taken[3], taken[4], f"train/{second}/other-label.jpg", f"train/{second}/cmyk.jpg"
    }  # fmt: skip
    assert [] == sheet.repeats()
    assert {f"train/{first}/cut.jpg", f"train/{first}/empty.jpg"} == set(sheet.bad_files)
    assert "empty" in sheet.bad_files[f"train/{first}/empty.jpg"]
    assert {
        "CMYK": [f"train/{second}/cmyk.jpg"],
        "tiny": [f"train/{nfd}/tiny.png"],
        "extreme aspect": [f"train/{nfd}/wide.jpg"],
        "animated": [f"train/{nfd}/moving.webp"],
    } == sheet.notes()
    assert {nfd} == {Path(name).name for name in sheet.decomposed}
    assert third in sheet.folder.labels


def test_the_page_shows_every_planted_fault(planted, tmp_path):
    """Each file that was planted is named on the page, and in the JSON."""
    root, _, _ = planted

    page = write(inspect(root), tmp_path / "sheet")

    text = page.read_text("utf-8")
    for name in ("copied", "smaller", "cut", "empty", "other-label", "cmyk", "tiny", "wide"):
        assert f"/{name}." in text
        assert f"/{name}." in (tmp_path / "sheet" / "sheet.json").read_text("utf-8")
    assert (tmp_path / "sheet" / "classes.png").stat().st_size > 0


@pytest.mark.parametrize(
    "edit",
    [{"scale": 0.5, "quality": 50}, {"scale": 1.5}, {"quality": 25}, {"scale": 0.7, "quality": 30}],
    ids=str,
)
@pytest.mark.skipif(not GROCERY.is_dir(), reason="the photos of groceries are not here")
def test_edited_copies_of_real_photos_are_found(edit, tmp_path):
    """Scaled and recompressed copies of real photos are near copies of their originals."""
    found = 0
    classes = sorted((GROCERY / "val").iterdir())[:12]
    for folder in classes:
        original = sorted(folder.glob("*.jpg"))[0]
        for split in ("train", "val"):
            (tmp_path / split / folder.name).mkdir(parents=True)
        shutil.copy(original, tmp_path / "train" / folder.name)
        (tmp_path / "val" / folder.name / "copy.jpg").write_bytes(_edited(original, **edit))
    sheet = inspect(tmp_path)
    found = sum(copies.kind == "near" for copies in sheet.leaks())

    assert found >= len(classes) - 1
    assert [] == sheet.conflicts()


@pytest.mark.skipif(not GROCERY.is_dir(), reason="the photos of groceries are not here")
def test_real_photos_raise_no_false_alarm():
    """Of 3,854 photos of one shelf and another no two are taken for one."""
    sheet = inspect(GROCERY)

    assert () == sheet.copies
    assert [] == sheet.problems()
    assert {} == sheet.notes()
