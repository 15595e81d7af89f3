"""Folders become labels and splits, and folders that cannot are refused with a sentence."""

import os
import unicodedata

import pytest

from training.data.dataset import draw, scan
from training.errors import DataError


def test_given_splits_are_kept(folder):
    """train/ val/ test/ of class folders are taken as they are; labels are sorted."""
    root = folder({"train/b": 3, "train/a": 2, "val/a": 1, "val/b": 1, "test/a": 1, "test/b": 2})
    (root / "train" / "a" / "notes.txt").write_text("no photo")

    found = scan(root)

    assert ("a", "b") == found.labels
    assert {
        "train": {"a": 2, "b": 3}, "val": {"a": 1, "b": 1}, "test": {"a": 1, "b": 2},
    } == found.counts()  # fmt: skip
    assert 1 == found.left_out.count()


def test_class_folders_alone_are_in_no_split_until_photos_are_read(folder):
    """Splits are drawn by contents: the same for the same seed, others for another."""
    root = folder({"a": 20, "b": 30, "c": 2})

    found = scan(root, seed=1)
    digests = {found.name(photo): f"content of {photo.path}" for photo in found.photos}
    drawn = draw(found, digests)

    assert {"": {"a": 20, "b": 30, "c": 2}} == found.counts()
    assert {"a": 20, "b": 30, "c": 2} == {
        label: sum(of[label] for of in drawn.counts().values()) for label in "abc"
    }
    assert all(drawn.counts()[split][label] for split in ("train", "val") for label in "abc")
    assert drawn == draw(scan(root, seed=1), digests)
    assert drawn.photos != draw(scan(root, seed=2), digests).photos


def test_names_are_composed(folder):
    """A folder name from a Mac (NFD) becomes the label that everybody else writes (NFC)."""
    root = folder({unicodedata.normalize("NFD", "김밥"): 4, "냉면": 4})

    assert ("김밥", "냉면") == scan(root).labels


@pytest.mark.parametrize(
    ("counts", "sentence"),
    [
        ({"train/a": 2, "train/b": 2, "val/a": 1}, "'b' is missing from"),
        ({"train/a": 2, "val/a": 1, "val/b": 1, "train/b": 0}, "has no photos"),
        ({"train/a": 2, "train/b": 2}, "no val folder"),
        ({unicodedata.normalize("NFD", "김밥"): 3, "김밥": 3}, "Unicode form"),
        ({"a": 5}, "two or more"),
        ({"a": 5, "b": 1}, "one photo"),
    ],
    ids=["missing class", "empty class", "no val", "equal names", "one class", "one photo"],
)
def test_what_cannot_be_trained_on_is_refused(folder, counts, sentence):
    """The error says which class or folder, and what to do."""
    with pytest.raises(DataError, match=sentence):
        scan(folder(counts))


@pytest.mark.parametrize("place", [b"photos/\xb1\xe8\xb9\xe4", b"photos/a/\xb1\xe8.jpg"])
def test_a_name_in_another_encoding_is_refused(folder, tmp_path, place):
    """A CP949 name, as a zip from Windows leaves it, is one sentence and no traceback."""
    folder({"a": 4, "b": 4})
    path = os.path.join(os.fsencode(tmp_path), place)  # noqa: PTH118
    if place.endswith(b".jpg"):
        os.close(os.open(path, os.O_CREAT))
    else:
        os.mkdir(path)  # noqa: PTH102

    with pytest.raises(DataError, match="not UTF-8"):
        scan(tmp_path / "photos")


def test_a_missing_folder_is_refused(tmp_path):
    """A path that is no folder is named."""
    with pytest.raises(DataError, match="is not a folder"):
        scan(tmp_path / "nowhere")
