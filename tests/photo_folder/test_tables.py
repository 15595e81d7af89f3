"""Tables of photos and of labels as spreadsheets save them."""

from pathlib import Path

import pytest

from flows.local import relabel
from photo_folder.errors import FolderError
from photo_folder.left_out import LeftOut
from photo_folder.scan import photos_in, scan
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


def placed(root: Path, files: list[str]) -> None:
    """Write files of some content."""
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("path,label\nkimchi/1.jpg,김치\n", "utf-8"), ("path;label\nkimchi/1.jpg;김치\n", "cp949"),
        ("path\tlabel\nkimchi/1.jpg\t김치\n", "utf-16"),
        ("sep=;\npath;label\nkimchi/1.jpg;김치\n", "utf-8-sig"),
        ("Filename,Class\r\nkimchi\\1.jpg,김치\r\n", "utf-8"),
        ("filenames,cats\rkimchi/1.jpg,김치\r", "utf-8"),
    ],
)  # fmt: skip
def test_a_table_of_photos_in_any_dress(tmp_path, text, encoding):
    """Encodings, separators, names of columns, line ends."""
    placed(tmp_path, ["kimchi/1.jpg"])
    (tmp_path / "photos.csv").write_bytes(text.encode(encoding))
    (photo,) = scan(tmp_path / "photos.csv").photos
    assert ("kimchi/1.jpg", "김치") == (photo.name, photo.label)


def test_western_signs_are_read(tmp_path):
    """`crème` from a Western Excel is no Korean."""
    placed(tmp_path, ["1.jpg"])
    (tmp_path / "t.csv").write_bytes("path,label\n1.jpg,crème brûlée\n".encode("cp1252"))
    assert "crème brûlée" == scan(tmp_path / "t.csv").photos[0].label


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"PK\x03\x04rest", "workbook"), (b"path,name\n1.jpg,a\n", "needs the columns"),
        (b"", "needs the columns"), (b"path,label\nnowhere.jpg,egg\n", "names no photo"),
        (b"\x00\x01\x02\x03" * 9, "no text|no encoding|needs the columns"),
        (b"path,label\n1,egg\n", "1 are missing, such as 1; paths .* their suffix"),
        (b'path,label\n1.jpg,egg\n2.jpg,"rice\n3.jpg,egg\n', "in line 3 is never closed"),
        (b'path,note,label\n1.jpg,"' + b"x" * 200_000, "line 2: .* is a quote never closed"),
    ],
)  # fmt: skip
def test_what_is_no_table_is_named(tmp_path, content, words):
    """And how to save it, where a spreadsheet made it."""
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(FolderError, match=words):
        scan(tmp_path / "t.csv")


def test_a_table_gives_splits_and_groups(tmp_path):
    """`valid` is val; two labels for one photo, and splits for some alone, are refused."""
    placed(tmp_path, ["1.jpg", "2.jpg"])
    table = tmp_path / "t.toml"
    table.write_text(
        '[[photo]]\npath = "1.jpg"\nlabel = "egg"\nsplit = "train"\ngroup = "shop 1"\n'
        '[[photo]]\npath = "2.jpg"\nlabel = "rice"\nsplit = "valid"\n'
    )
    assert [("train", "shop 1"), ("val", "")] == [(p.split, p.group) for p in scan(table).photos]
    table = tmp_path / "t.csv"
    table.write_text("path,label\n1.jpg,egg\n1.jpg,rice\n2.jpg,egg\n")
    assert "line 3: 1.jpg is 'rice', and in line 2 'egg'" in scan(table).refusal
    table.write_text("path,label,is_valid\n1.jpg,egg,False\n2.jpg,egg,True\n")
    assert "line 2: 'False' is no split; there are train, val, test" in scan(table).refusal
    table.write_text("path,label,split\n1.jpg,egg,train\n2.jpg,egg,\n")
    assert "for some photos only" in scan(table).refusal
