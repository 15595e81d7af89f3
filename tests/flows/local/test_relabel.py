"""Corrected answers become photos of the right class, and nothing is lost or doubled."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from flows.local import relabel, relabel_history
from terminal import UserError


@pytest.fixture
def data(photos: Path, tmp_path: Path) -> Path:
    """A copy of the drawn dishes."""
    import shutil

    return Path(shutil.copytree(photos, tmp_path / "photos"))


def test_a_correction_moves_a_photo_within_its_split(data, tmp_path):
    """The photo leaves the wrong class for the right one; the history says so; again is nothing."""
    first, second, _ = sorted(path.name for path in (data / "val").iterdir())
    photo = next((data / "val" / first).iterdir())
    content = photo.read_bytes()
    table = tmp_path / "fixed.csv"
    table.write_text(f"photo,model,label\nval/{first}/{photo.name},food42,{second}\n")

    done = subprocess.run(
        [sys.executable, "-m", "hansang", "relabel", str(table), "--data", str(data), "--json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip

    (moved,) = json.loads(done.stdout)
    assert (first, second) == (moved["before"], moved["label"])
    assert Path(moved["photo"]).parent == (data / "val" / second).resolve()
    assert not photo.exists()
    assert content == Path(moved["photo"]).read_bytes()
    (line,) = map(json.loads, (data / ".relabels.jsonl").read_text().splitlines())
    assert (first, second) == (line["before"], line["label"])
    assert [] == relabel.plan(relabel.read(table), data)


def test_a_photo_from_outside_is_added_to_train_once(data, tmp_path):
    """It is copied under the name of its content; given again, it is there already."""
    from PIL import Image

    label = sorted(path.name for path in (data / "train").iterdir())[0]
    photo = tmp_path / "seen.jpg"
    Image.new("RGB", (40, 30), (200, 80, 20)).save(photo)

    moves = relabel.plan([(str(photo), label)], data)
    relabel.apply(moves, data)

    assert photo.exists()
    assert photo.read_bytes() == moves[0].target.read_bytes()
    assert moves[0].target.parent == (data / "train" / label).resolve()
    assert [] == relabel.plan([(str(photo), label)], data)


def test_spaces_around_a_name_count_where_a_photo_has_them(tmp_path):
    """' 1.jpg' and '1.jpg' are two photos; a space that a table has too many is passed over."""
    from PIL import Image

    for at, name in enumerate((" egg/1.jpg", "egg/1.jpg", "egg/ 2.jpg", "rice/3.jpg")):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (40 * at, 90, 10)).save(tmp_path / "photos" / name)
    table = tmp_path / "fixed.csv"
    table.write_text('photo,label\n" egg/1.jpg",rice\n" egg/ 2.jpg",rice\n')

    moves = relabel.plan(relabel.read(table), tmp_path / "photos")

    assert [(" egg/1.jpg", " egg"), ("egg/ 2.jpg", "egg")] == [
        (str(move.source.relative_to(tmp_path / "photos")), move.before) for move in moves
    ]


def test_what_a_correction_would_break_is_refused_before_anything_moves(data, tmp_path):
    """All that is wrong is listed, and the good row beside it waits."""
    first, second, third = sorted(path.name for path in (data / "train").iterdir())
    good = next((data / "train" / first).iterdir())
    copied = tmp_path / "copy.jpg"
    copied.write_bytes(next((data / "test" / first).iterdir()).read_bytes())
    junk = tmp_path / "junk.jpg"
    junk.write_bytes(b"no photo")
    rows = [
        (f"train/{first}/{good.name}", second),
        (f"train/{first}/{good.name}", third),
        (str(copied), second),
        (str(junk), first),
        ("train/nowhere.jpg", first),
        (str(junk), "a dish nobody knows"),
        (str(junk), "../../up"),
    ]

    with pytest.raises(UserError) as refused:
        relabel.plan(rows, data)

    for words in ("two labels", "in the data set already", "not read here", "no such photo",
                  "no class 'a dish nobody knows'", "no class '../../up'"):  # fmt: skip
        assert words in str(refused.value)
    with pytest.raises(UserError, match="cannot be the name of a folder"):
        relabel.plan([(str(junk), "../../up")], data, new_classes=True)
    assert good.exists()
    assert not (data / ".relabels.jsonl").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2\n", "columns photo and label"),
        ("photo,label\nx.jpg,\n", "line 2"),
        ("", "column"),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path, text, words):
    """The error names the column or the line."""
    (tmp_path / "t.csv").write_text(text)

    with pytest.raises(UserError, match=words):
        relabel.read(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("photo;label\r\n{};{}\r\n", "utf-8-sig"),
        ("Photo\tLabel\n{}\t{}\n", "utf-16"),
        ("sep=;\nphoto;label\n{};{}\n", "cp949"),
    ],
)
def test_tables_of_spreadsheets_are_read(data, tmp_path, text, encoding):
    """Separators, capitals and encodings, with Hangul in the label and a backslash in the path."""
    source = next(path for path in (data / "val").iterdir())
    (data / "val" / "김치").mkdir()
    photo = next(source.iterdir())
    table = tmp_path / "fixed.csv"
    table.write_bytes(text.format(f"val\\{source.name}\\{photo.name}", "김치").encode(encoding))

    (move,) = relabel.plan(relabel.read(table), data)

    assert (source.name, "김치") == (move.before, move.label)


def test_a_photo_in_a_folder_below_its_class_keeps_that_folder(data):
    """Its class is the first folder; it moves to the same place in the other class."""
    first, second, _ = sorted(path.name for path in (data / "val").iterdir())
    photo = next((data / "val" / first).iterdir())
    (photo.parent / "2026-01").mkdir()
    photo = photo.rename(photo.parent / "2026-01" / photo.name)

    (move,) = relabel.plan([(f"val/{first}/2026-01/{photo.name}", second)], data)
    relabel.apply([move], data)

    assert (data / "val" / second / "2026-01" / photo.name).is_file()
    assert first == move.before


def test_the_last_photo_of_a_class_leaves_a_class_behind(data):
    """A folder that was emptied by a correction is a class still: its photos may come back."""
    first, second, _ = sorted(path.name for path in (data / "val").iterdir())
    for folder in (data / split / first for split in ("train", "val", "test")):
        rows = [(f"{folder.parent.name}/{first}/{p.name}", second) for p in folder.iterdir()]
        relabel.apply(relabel.plan(rows, data), data)
    photo = next((data / "val" / second).iterdir())
    (move,) = relabel.plan([(f"val/{second}/{photo.name}", first)], data)
    assert first == move.label


def everything(data: Path) -> dict[str, bytes]:
    """Return the content of every photo, by its path."""
    return {
        path.relative_to(data).as_posix(): path.read_bytes() for path in sorted(data.rglob("*.jpg"))
    }


def relabelled(*arguments) -> list[dict]:
    """Run the verb, and return the moves that it tells."""
    done = subprocess.run(
        [sys.executable, "-m", "hansang", "relabel", *map(str, arguments), "--json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


def test_a_dropped_photo_moves_aside_and_comes_back(data, tmp_path):
    """It is out of the data set and still on the disk; --undo puts it and a moved one back."""
    first, second, _ = sorted(path.name for path in (data / "val").iterdir())
    one, other = sorted((data / "val" / first).iterdir())[:2]
    before = everything(data)
    table = tmp_path / "corrections.csv"
    table.write_text(
        f"photo,label\nval/{first}/{one.name},(drop)\nval/{first}/{other.name},{second}\n"
    )

    relabelled(table, "--data", data)

    assert not one.exists()
    assert (
        before[f"val/{first}/{one.name}"]
        == (data / ".dropped" / "val" / first / one.name).read_bytes()
    )
    lines = [json.loads(line) for line in (data / ".relabels.jsonl").read_text().splitlines()]
    assert {"by", "time", "command"} <= lines[0].keys()
    assert [] == relabel.plan(relabel.read(table), data)

    assert 2 == len(relabelled("--undo", "--data", data))

    assert before == everything(data)
    with pytest.raises(UserError, match=r"no correction of .* is left to take back"):
        relabel_history.way_back(data)


def test_undo_takes_one_table_after_another_back_and_deletes_nothing(data, tmp_path):
    """A photo that was added moves aside; killed half-way, the same command does the rest."""
    first, second, third = sorted(path.name for path in (data / "train").iterdir())
    rows = sorted((data / "train" / first).iterdir())
    before = everything(data)
    added = tmp_path / "seen.jpg"
    added.write_bytes(b"".join([rows[0].read_bytes(), b"more"]))
    relabel.apply(relabel.plan([(f"train/{first}/{rows[0].name}", second)], data), data)
    table = [(str(added), third), (f"train/{first}/{rows[1].name}", second)]
    relabel.apply(relabel.plan(table, data), data)

    moves, command = relabel_history.way_back(data)
    relabel_history.apply(moves[:1], data, undoes=command)  # killed after the first
    moves, same = relabel_history.way_back(data)

    assert (command, 1) == (same, len(moves))
    relabel_history.apply(moves, data, undoes=command)
    moves, earlier = relabel_history.way_back(data)
    assert earlier != command
    relabel_history.apply(moves, data, undoes=earlier)
    left = everything(data)
    (aside,) = left.keys() - before.keys()
    assert aside.startswith(f".dropped/train/{third}/")
    assert added.read_bytes() == left.pop(aside)
    assert before == left


def test_what_cannot_be_taken_back_is_refused_before_anything_moves(data):
    """A photo that was moved again by hand is named."""
    first, second, _ = sorted(path.name for path in (data / "val").iterdir())
    photo = next((data / "val" / first).iterdir())
    (move,) = relabel.plan([(f"val/{first}/{photo.name}", second)], data)
    relabel.apply([move], data)
    move.target.rename(move.target.with_name("elsewhere.jpg"))

    with pytest.raises(UserError, match=r"nothing was taken back: .* is not there any more"):
        relabel_history.way_back(data)


def test_only_photos_of_the_data_set_are_dropped(data, tmp_path):
    """A class may be named drop; a photo from elsewhere cannot be dropped."""
    first = sorted(path.name for path in (data / "val").iterdir())[0]
    photo = next((data / "val" / first).iterdir())
    (data / "val" / "drop").mkdir()
    outside = tmp_path / "seen.jpg"
    outside.write_bytes(photo.read_bytes())

    (move,) = relabel.plan([(f"val/{first}/{photo.name}", "drop")], data)

    assert (data / "val" / "drop" / photo.name).resolve() == move.target.resolve()
    with pytest.raises(UserError, match="cannot be dropped"):
        relabel.plan([(str(outside), relabel.DROP)], data)
