"""Drawn pictures are the same for a seed, and a look at a folder finds what is wrong with it."""

import shutil

import pytest
from PIL import Image

from training.data.dataset import scan
from training.datasheet.contact_sheet import contact_sheet
from training.datasheet.inspection import inspect
from training.errors import DataError
from training.samples.sample import draw_photos


def test_the_same_seed_draws_the_same_pictures(dishes, tmp_path):
    """Pictures are a function of the arguments; another seed draws others."""
    again = draw_photos(tmp_path / "again", classes=2, per_class=20)
    other = draw_photos(tmp_path / "other", classes=2, per_class=20, seed=1)

    names = sorted(path.relative_to(again) for path in again.glob("*/*/*.jpg"))
    assert 40 == len(names)
    assert all((again / name).read_bytes() == (dishes / name).read_bytes() for name in names)
    assert all((again / name).read_bytes() != (other / name).read_bytes() for name in names)


def test_similar_dishes_are_other_dishes(dishes, tmp_path):
    """`similar` shares no class with the others, and splits like any folder of photos."""
    similar = draw_photos(tmp_path / "similar", classes=13, per_class=5, similar=True)

    assert set() == set(scan(similar).labels) & set(scan(dishes).labels)
    assert {"train": 39, "val": 13, "test": 13} == {
        split: sum(classes.values()) for split, classes in scan(similar).counts().items()
    }


def test_nothing_is_drawn_over(tmp_path):
    """A folder with something else in it is refused; one that was drawn is left as it is."""
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="not empty"):
        draw_photos(tmp_path, classes=2, per_class=5)


def test_inspection_finds_what_is_wrong(dishes, tmp_path):
    """Unreadable files and photos that stand in two splits are named; the picture has Hangul."""
    root = shutil.copytree(dishes, tmp_path / "photos")
    label = scan(root).labels[0]
    (root / "train" / label / "bad.jpg").write_bytes(b"junk")
    copied = next((root / "train" / label).glob("0*.jpg"))
    shutil.copy(copied, root / "val" / label / "leak.jpg")

    sheet = inspect(root)
    contact_sheet(sheet, tmp_path / "sheet.png")

    found = sheet.to_dict()
    assert [f"train/{label}/bad.jpg"] == list(found["bad_files"])
    assert [{f"train/{label}/{copied.name}", f"val/{label}/leak.jpg"}] == [
        set(group["files"]) for group in found["duplicates_across_splits"]
    ]
    with Image.open(tmp_path / "sheet.png") as picture:
        assert picture.width > 300
