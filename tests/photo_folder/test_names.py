"""What names say, and how what was left out is counted and told."""

import pytest

from photo_folder.left_out import LeftOut
from photo_folder.names import (
    Kind,
    advice_for,
    has_control,
    is_unicode,
    junk,
    kind_of,
    look_alikes,
    passed_over,
    printable,
    shell,
    suffix_of,
)


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("1.JPG ", ".jpg"), ("a.b.png", ".png"), (".jpg", ""), ("..jpg", ""), ("a.", ""), ("a", "")],
)
def test_a_suffix_is_what_follows_the_last_point_of_a_name(name, suffix):
    """Capitals and spaces around it do not matter; a hidden file's whole name is none."""
    assert suffix == suffix_of(name)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("1.jpg", None), ("1.jpg?w=640", None), ("1.png?v=1.5", None), ("1.heic?w=1", Kind.OTHER),
        ("1.CR2", Kind.PICTURE), ("1.tga", Kind.PICTURE), ("1.txt", Kind.OTHER),
        ("1", Kind.NO_SUFFIX), ("1.", Kind.NO_SUFFIX), (".1.jpg", Kind.HIDDEN),
        ("._1.jpg", Kind.JUNK), ("1.jpg:Zone.Identifier", Kind.JUNK), ("THUMBS.DB", Kind.JUNK),
    ],
)  # fmt: skip
def test_a_name_says_what_a_file_is(name, kind):
    """Photos by their suffixes; what a system left, what is hidden, other pictures, the rest."""
    assert kind is kind_of(name)


def test_what_a_system_left_is_named_by_what_its_kind_has_in_common():
    """By the last part of a path; a photo's own name is not repeated for each of them."""
    assert "._*" == junk("egg/more/._1.jpg")
    assert "Thumbs.db" == junk("egg/Thumbs.db")
    assert "*@synoeastream" == junk("egg/1.jpg@SynoEAStream")
    assert "" == junk("__MACOSX/egg")
    assert [Kind.JUNK, Kind.HIDDEN, None] == [
        passed_over(name) for name in ("__MACOSX", ".mine", "egg")
    ]


def test_a_name_is_printed_in_one_line_of_valid_unicode():
    """Line ends are escaped, bytes that are no UTF-8 are told as bytes, all else stays."""
    assert r"a\nb\tc\u2028" == printable("a\nb\tc\u2028")
    assert r"\x80\xff\udc7f\udd00" == printable("\udc80\udcff\udc7f\udd00")
    assert "김치 'x'" == printable("김치 'x'")
    assert "'it'\"'\"'s'" == shell("it's")
    assert [True, False] == [is_unicode(name) for name in ("김치", "a\udcb1")]
    assert [False, True, True] == [has_control(name) for name in ("a b", "a\tb", "a\u2029")]


def test_a_format_that_is_not_read_has_its_way_out():
    """Where nothing is known of it, as JPEG."""
    assert "save it as JPEG" == advice_for(".tga")
    assert "JPEG" in advice_for(".cr2")


def test_labels_that_people_take_for_one():
    """By case, spaces, marks, width and what nobody sees; others are not taken together."""
    labels = [
        "egg",
        "Egg ",
        "rice_cake",
        "rice-cake",
        "ｒice cake",
        "sou\u200bp",
        "soup",
        "eggs",
    ]

    assert [
        ["egg", "Egg "],
        ["rice_cake", "rice-cake", "ｒice cake"],
        ["sou\u200bp", "soup"],
    ] == (look_alikes(labels))


def test_what_was_left_out_is_told_in_two_lines():
    """One by one where each may be a class, by suffix and example where there are many."""
    left = LeftOut()
    assert [] == left.lines()
    for number in range(6):
        left.add(f"egg/{number}.jpg", Kind.UNREADABLE, "Permission denied")
    left.add("soup", Kind.EMPTY)
    left.add("x", Kind.LOOP, "forgotten")
    for number, suffix in enumerate(["txt", "txt", "csv", "md", "py", "c", "h", "o"]):
        left.add(f"{number}.{suffix}", Kind.OTHER, f".{suffix}")
    for number, suffix in enumerate([".heic", ".cr2", ".heic"]):
        left.add(f"p{number}{suffix}", Kind.PICTURE, suffix)
    for number in range(9):
        left.add(f"{number}/venv{number}", Kind.JUNK)
    left.add("a/._1.jpg", Kind.JUNK)
    left.add("a/._2.jpg", Kind.JUNK)
    left.add(".mine", Kind.HIDDEN)

    people, system = left.lines()
    named = ", ".join(f"egg/{number}.jpg (Permission denied)" for number in range(4))
    advice = advice_for(".heic")
    assert (
        f"left out: cannot be read: {named} and 2 more; 2 .heic (p0.heic), 1 .cr2 (p1.cr2), not"
        f" read here: {advice}; 1 link into a loop (x); no photos in soup; 2 .txt (0.txt), 1 .csv"
        " (2.csv), 1 .md (3.md), 1 .py (4.py), 1 .c (5.c), 1 .h (6.h), 1 of other kinds"
    ) == people
    assert system.startswith("skipped, left by a system: 2 × ._*, venv0, venv1,")
    assert system.endswith(" and 3 more kinds")
    assert 19 == left.count()
    assert 12 == left.count(Kind.JUNK, Kind.HIDDEN)
    told = left.to_dict()
    assert [people, system] == told["lines"]
    assert {f"egg/{n}.jpg": "Permission denied" for n in range(6)} == told["unreadable"]
    assert {"kind": "no picture", "what": ".txt", "count": 2, "example": "0.txt"} in told["counts"]


def test_two_places_are_counted_together_in_bounded_memory():
    """The first example stays; a thousand names are kept, the rest is counted."""
    left, other = LeftOut(), LeftOut()
    left.add("a.txt", Kind.OTHER, ".txt")
    for number in range(999):
        left.add(str(number), Kind.UNREADABLE)
    other.add("b.txt", Kind.OTHER, ".txt")
    for number in range(1001):
        other.add(f"other/{number}", Kind.UNREADABLE)
    assert 1000 == len(other.to_dict()["unreadable"])

    left.join(other)

    assert 2000 == left.count(Kind.UNREADABLE)
    assert [*map(str, range(999)), "other/0"] == list(left.to_dict()["unreadable"])
    assert "2 .txt (a.txt)" in left.lines()[0]
