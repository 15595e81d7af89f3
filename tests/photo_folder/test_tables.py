"""Tables of labels as spreadsheets save them."""

import pytest

from flows.local import relabel
from photo_folder.left_out import LeftOut
from photo_folder.scan import photos_in
from terminal import UserError


def photos_of(folder):
    """Return where the folder's photos lie."""
    return {path for path, _ in photos_in(folder, LeftOut())}


@pytest.mark.parametrize("table", ["semi", "bom", "caps", "back"])
def test_tables_of_spreadsheets_are_read(case, table):
    """A21: semicolons, a byte-order mark, capitals, backslashes."""
    data = case("A21") / "p"
    moves = relabel.plan(relabel.read(case("A21") / f"{table}.csv"), data)
    assert moves
    assert {"rice", "pizza"} >= {move.label for move in moves}


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("cp949", "no class '김치'"), ("dup", "two labels"), ("half", "no such photo"),
        ("blank", "line 2"), ("esc", "no class"), ("abs", "no name of a photo"),
    ],
)  # fmt: skip
def test_a_table_that_is_wrong_moves_nothing(case, table, words):
    """A21: what is wrong is said, and the data set stays as it is."""
    data = case("A21") / "p"
    before = photos_of(data)
    with pytest.raises(UserError, match=words):
        relabel.plan(relabel.read(case("A21") / f"{table}.csv"), data)
    assert before == photos_of(data)
