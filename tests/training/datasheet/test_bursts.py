"""The sheet on groups: leaks between splits, and bursts that it finds and suggests."""

import datetime
import io

import pytest
from PIL import ExifTags, Image

from training.data.prepare import prepare
from training.datasheet.inspection import inspect
from training.datasheet.sheet import write


@pytest.fixture
def shot(photo):
    """`shot(3, at)` is a photo with the camera's name and the second it was taken at."""

    def make(number, at_s):
        image = Image.open(io.BytesIO(photo(number)))
        exif = Image.Exif()
        exif[ExifTags.Base.Model] = "K-1"
        moment = datetime.datetime(2026, 11, 1, 12) + datetime.timedelta(seconds=at_s)
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = moment.strftime(
            "%Y:%m:%d %H:%M:%S"
        )
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", exif=exif)
        return buffer.getvalue()

    return make


def test_a_group_in_two_splits_is_a_leak(folder):
    """Other photos of one object in train and in val are a problem, and each is named."""
    root = folder({"train/a/o1": 2, "train/b/o2": 2, "val/a/o1": 1, "val/b/o3": 1})

    sheet = inspect(root, group="folder")

    assert {"a/o1": ["train", "val"]} == sheet.to_dict()["groups_across_splits"]
    assert ["1 groups in more than one split"] == sheet.problems()
    assert [] == inspect(root).problems()


def test_photos_of_one_camera_within_a_minute_are_suggested_as_a_group(tmp_path, shot):
    """The table that the sheet writes has them as groups, and trains with none of them parted."""
    root = tmp_path / "photos"
    for target, label in enumerate(("soup", "rice")):
        (root / label).mkdir(parents=True)
        for number in range(24):
            # Bursts of four, 20 s apart, one an hour.
            at_s = number // 4 * 3600 + number % 4 * 20
            name = f"{label}-{'abcdefghijklmnopqrstuvwxyz'[number]}.jpg"
            (root / label / name).write_bytes(shot(30 * target + number, at_s))

    sheet = inspect(root)
    write(sheet, tmp_path / "sheet")
    cache = prepare(tmp_path / "sheet" / "groups.csv", 32, cache_root=tmp_path / "cache")

    assert 12 == sheet.to_dict()["bursts"]
    assert "48 of 48 photos come in 12 bursts" in sheet.to_dict()["advice"]
    where = [(group, name) for name, split in cache.splits.items() for group in set(split.groups)]
    assert 12 == len(where) == len({group for group, _ in where})


def test_the_sheet_says_the_rule_that_names_have(folder):
    """Names such as `apple1S(2)` suggest the expression that groups them."""
    root = folder({"apple": 12, "pear": 12})
    for number, path in enumerate(sorted(root.rglob("*.jpg"))):
        path.rename(path.with_name(f"{path.parent.name}{number // 4}S({number % 4}).jpg"))

    sheet = inspect(root)

    assert "--group" in sheet.to_dict()["advice"]
    assert 6 == inspect(root, group=sheet.advice()[1]).to_dict()["groups"]
    assert "" == inspect(root, group=sheet.advice()[1]).advice()[0]
