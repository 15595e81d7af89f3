"""Groups of photos: by a rule on their paths, and leaks where a split parts one."""

import re

import pytest

from photo_folder.errors import FolderError
from photo_folder.groups import parted, suggestion
from photo_folder.scan import scan

_OBJECT = r"/(\w+?\d+)[ST]"


@pytest.fixture
def made(tmp_path):
    """`made(paths)` writes a file of some bytes at each path, and returns the folder."""

    def make(paths):
        for path in paths:
            (tmp_path / "p" / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "p" / path).write_bytes(b"photo")
        return tmp_path / "p"

    return make


def test_an_expression_names_groups_by_what_its_parentheses_hold(made):
    """`apple016S(3)` and `apple016T(1)` are one apple; a name that does not match stands alone."""
    root = made(["apple/apple016S(3).jpg", "apple/apple016T(1).jpg", "apple/x.jpg",
                 "pear/pear2S(1).jpg"])  # fmt: skip

    found = scan(root, group=_OBJECT)

    assert ["apple016", "apple016", "", "pear2"] == [photo.group for photo in found.photos]
    assert any("3 photos are in 2 groups; 1 are in none, such as apple/x.jpg" in line
               for line in found.notes)  # fmt: skip


def test_folders_below_class_folders_are_groups(made):
    """One folder of one class is a group, in splits and without; other photos stand alone."""
    root = made(["train/soup/shop 1/a.jpg", "train/soup/b.jpg", "val/soup/shop 1/c.jpg",
                 "train/rice/d.jpg", "val/rice/e.jpg"])  # fmt: skip

    assert {
        "train/soup/shop 1/a.jpg": "soup/shop 1", "val/soup/shop 1/c.jpg": "soup/shop 1",
        "train/soup/b.jpg": "", "train/rice/d.jpg": "", "val/rice/e.jpg": "",
    } == {photo.name: photo.group for photo in scan(root, group="folder").photos}  # fmt: skip


def test_a_group_in_two_splits_is_told(made):
    """Whoever trains hears of it before; the same groups are leaks in the data sheet."""
    root = made([f"{split}/{c}/{c}7S({n}).jpg" for split in ("train", "val")
                 for c in ("ab", "cd") for n in range(3)])  # fmt: skip

    found = scan(root, group=_OBJECT)

    assert any("2 groups are in several splits, such as 'ab7' in train and val" in line
               for line in found.notes)  # fmt: skip
    assert {"ab7": ("train", "val"), "cd7": ("train", "val")} == parted(
        (photo.group, photo.split) for photo in found.photos
    )


@pytest.mark.parametrize(
    ("rule", "words"),
    [("(", "is no regular expression"), ("zebra", "matches no path"), ("folder", "no photo lies")],
)
def test_a_rule_that_groups_nothing_is_refused(made, rule, words):
    """The error names the rule, and a path."""
    with pytest.raises(FolderError, match=words):
        scan(made(["a/1.jpg", "b/2.jpg"]), group=rule)


@pytest.mark.parametrize(
    ("names", "rule", "groups"),
    [
        ([f"{c}{o:03}{s}({n}).jpg" for c in ("apple", "pear") for o in (1, 2)
          for s in "ST" for n in (1, 2)], True, 4),
        ([f"{c}-{v}_{n:03}.jpg" for c in ("apple", "pear") for v in ("red", "green")
          for n in range(5)], True, 4),
        ([f"IMG_{n}.jpg" for n in range(20)], False, 0),
        ([f"{n}.jpg" for n in range(20)], False, 0),
    ],
    ids=["objects", "varieties", "a camera's names", "numbers"],
)  # fmt: skip
def test_names_in_bursts_suggest_a_rule(names, rule, groups):
    """A rule is suggested where classes have several groups of photos, and not for mere numbers."""
    classes = {}
    for index, name in enumerate(names):
        label = name[:4] if rule else "ab"[index % 2]
        classes.setdefault(label, []).append(f"{label}/{name}")

    found = suggestion(classes)

    assert rule == bool(found)
    if rule:
        assert groups == len({re.search(found, path)[1] for of in classes.values() for path in of})
