"""Odd folders and tables beyond the shared cases, as users of other projects report them.

Each is a line in docs/notes/odd-inputs.md. A file's content does not matter here: names decide.
"""

import errno
import os
import re
from collections import Counter
from pathlib import Path

import pytest

from photo_folder import reading
from photo_folder.errors import FolderError
from photo_folder.left_out import LeftOut
from photo_folder.scan import photos_in, scan

FLAT = ["egg/1.jpg", "egg/2.jpg", "rice/1.jpg", "rice/2.jpg"]
SPLIT = [f"{split}/{photo}" for split in ("train", "val") for photo in FLAT]


def made(root: Path, files: list[str]) -> Path:
    """Write files, and folders whose names end with a slash; return their root."""
    for name in files:
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return root


@pytest.mark.parametrize(
    ("files", "classes", "splits", "told"),
    [
        # fastai/fastai2#210: a small copy of everything beside the splits
        ([*SPLIT, *(f"samples/{name}" for name in SPLIT)], {"egg", "rice"}, {"train", "val"},
         "8 photos beside the splits (samples/train/egg/1.jpg)"),
        # ultralytics#4310: `validation`, and the folder of runs inside the photos
        ([*SPLIT[:4], *(f"validation/{name}" for name in FLAT), "runs/weights/best.pt"],
         {"egg", "rice"}, {"train", "val"}, "1 .pt (runs/weights/best.pt)"),
        # pytorch/vision#2831: what a notebook leaves
        ([*FLAT, ".ipynb_checkpoints/1-checkpoint.jpg", "egg/.ipynb_checkpoints/1.jpg"],
         {"egg", "rice"}, {""}, "2 × .ipynb_checkpoints"),
        # a project with its environments: their packages bring pictures
        ([*FLAT, "venv/pyvenv.cfg", "venv/lib/site-packages/sklearn/china.jpg",
          "egg/node_modules/x/logo.png", ".venv/lib/logo.png"],
         {"egg", "rice"}, {""}, "node_modules, venv, 1 hidden"),
        # pytorch/vision#4925: an empty class folder
        ([*FLAT, "soup/"], {"egg", "rice"}, {""}, "no photos in soup"),
        # pytorch/vision#446, anomalib#3058: capitals
        ([*FLAT, "soup/1.JPEG", "soup/2.PNG", "soup/3.WebP"], {"egg", "rice", "soup"}, {""}, ""),
        # pytorch/vision#80: folders below class folders
        ([*FLAT, "egg/more/deep/9.jpg"], {"egg", "rice"}, {""}, ""),
        # unlabelled test photos of a competition
        ([*SPLIT, "test/1.jpg", "test/2.jpg"], {"egg", "rice"}, {"train", "val"},
         "2 photos beside the splits (test/1.jpg)"),
        # unlabelled photos in a folder of one folder
        ([*SPLIT, "no_label/no_label/1.jpg"], {"egg", "rice"}, {"train", "val"},
         "1 photo beside the splits"),
        # a data set unpacked into a folder of its own name, twice
        ([f"food/food/{name}" for name in SPLIT], {"egg", "rice"}, {"train", "val"}, ""),
        # images and their lists: Food-101
        ([*(f"images/{name}" for name in FLAT), "meta/classes.txt", "README.txt"],
         {"egg", "rice"}, {""}, "2 .txt"),
        # a detector's layout with classes
        ([*(f"images/{name}" for name in SPLIT), "labels/train/1.txt", "data.yaml"],
         {"egg", "rice"}, {"train", "val"}, "1 .txt (labels/train/1.txt)"),
        # images between split and class
        ([name.replace("/", "/images/", 1) for name in SPLIT], {"egg", "rice"},
         {"train", "val"}, ""),
        # Food-11: training, validation, evaluation
        ([f"{split}/{name}" for split in ("training", "validation", "evaluation")
          for name in FLAT], {"egg", "rice"}, {"train", "val", "test"}, ""),
        # train_set and val_set, TRAIN and VAL
        ([f"{split}/{name}" for split in ("train_set", "val_set") for name in FLAT],
         {"egg", "rice"}, {"train", "val"}, ""),
        ([f"{split}/{name}" for split in ("TRAIN", "VAL") for name in FLAT],
         {"egg", "rice"}, {"train", "val"}, ""),
        # a class named test whose photos lie by date, beside other classes
        ([*FLAT, "test/2026-01/1.jpg", "test/2026-02/1.jpg"], {"egg", "rice", "test"}, {""}, ""),
        # a picture beside the one folder of everything
        (["preview.jpg", *(f"photos/{name}" for name in FLAT)], {"egg", "rice"}, {""},
         "1 photo that lies beside class folders (preview.jpg)"),
        # downloads that did not end, and what editors leave
        ([*FLAT, "egg/3.jpg.part", "egg/4.jpg.crdownload", "egg/5.jpg~", "egg/~$6.jpg.tmp"],
         {"egg", "rice"}, {""}, "1 .part"),
        # a space after the suffix, two dots
        ([*FLAT, "egg/3.jpg ", "egg/a.b.jpg"], {"egg", "rice"}, {""}, ""),
        # a class of numbers, a name that ends like a photo's
        (["0/1.jpg", "0/2.jpg", "1/1.jpg", "soup.jpg/1.jpg"], {"0", "1", "soup.jpg"}, {""}, ""),
        # QNAP's and DigiKam's thumbnails, a Git repository around it
        ([*FLAT, ".@__thumb/egg/1.jpg", "egg/.dtrash/1.jpg", ".git/HEAD", ".gitattributes"],
         {"egg", "rice"}, {""}, ".@__thumb"),
        # raw photos and films beside JPEGs
        ([*FLAT, "egg/1.CR2", "egg/2.DNG", "egg/3.MOV"], {"egg", "rice"}, {""},
         "not read here: export it as JPEG"),
    ],
)  # fmt: skip
def test_an_odd_folder_is_understood_and_what_is_left_is_said(
    tmp_path, files, classes, splits, told
):
    """Classes, splits, and a line for what is no photo of them."""
    found = scan(made(tmp_path / "p", files))
    assert not found.refusal
    assert (classes, splits) == (
        {photo.label for photo in found.photos}, {photo.split for photo in found.photos}
    )  # fmt: skip
    assert told in " | ".join(found.left_out.lines())


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([f"train/{name}" for name in FLAT], "train but no val folder"),
        ([f"val/{name}" for name in FLAT], "without a train folder"),
        ([*SPLIT, *(f"valid/{name}" for name in FLAT)], "val and valid both look like val"),
        (["train/1.jpg", "val/2.jpg"], "without class folders"),
        ([*FLAT, "soup/1.heic", "soup/2.heic"], r"soup \(2 .heic\)"),
        ([*FLAT, "soup/IMG_1", "soup/IMG_2"], r"soup \(2 without a suffix\)"),
        ([*FLAT, "a\x7fb/1.jpg"], "control character"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_way_out(tmp_path, files, words):
    """One sentence a mistake."""
    assert re.search(words, scan(made(tmp_path / "p", files)).refusal)


def test_links_between_folders_do_not_multiply(tmp_path):
    """Twelve folders that each link to all: every photo is met, and the look ends."""
    root = made(tmp_path / "p", [f"{n}/{n}.jpg" for n in range(12)])
    for one in range(12):
        for other in range(12):
            (root / str(one) / f"to{other}").symlink_to(root / str(other))
    found = Counter(path.name for path, _ in photos_in(root, LeftOut()))
    assert 12 == len(found)
    assert sum(found.values()) < 12**3


def test_a_pipe_is_no_photo_and_stops_nothing(tmp_path):
    """Opening one to read would wait for ever."""
    root = made(tmp_path / "p", FLAT)
    os.mkfifo(root / "egg" / "x.jpg")
    assert "1 pipe or device (egg/x.jpg)" in scan(root).left_out.lines()[0]


def test_a_file_that_says_it_is_huge_is_not_read(tmp_path):
    """A sparse file of 8 GB, as a broken copy leaves it: refused by its size, in no time."""
    photo = tmp_path / "sparse.jpg"
    with photo.open("wb") as file:
        file.truncate(8 << 30)

    with pytest.raises(OSError, match="it has 8589934592 bytes; at most 134217728") as caught:
        reading.content(str(photo))
    assert caught.value.errno == errno.EFBIG
    with photo.open("wb") as file:
        file.truncate(1000)
    assert bytes(1000) == reading.content(str(photo))


@pytest.mark.parametrize("name", ["/dev/zero", "/proc/self/smaps"])
def test_a_file_that_has_more_than_it_says_is_read_to_the_limit_alone(name):
    """What says that it is empty and never ends, as files of the system do."""
    if not os.access(name, os.R_OK):
        pytest.skip(f"the system has no {name} to read")

    with pytest.raises(OSError, match="more than the 0 bytes that it says; at most 1000") as caught:
        reading.content(name, 1000)
    assert errno.EFBIG == caught.value.errno


def test_a_file_that_grows_or_shrinks_while_it_is_read_is_bounded(tmp_path, monkeypatch):
    """A copy under way: what is there when it is read, and no more than the limit."""
    photo = tmp_path / "1.jpg"
    photo.write_bytes(bytes(200_000))
    assert bytes(200_000) == reading.content(str(photo), 200_000)
    stat = os.fstat

    def then(size: int):
        def told(number: int) -> os.stat_result:
            found = stat(number)
            os.truncate(photo, size)
            return found

        return told

    monkeypatch.setattr(os, "fstat", then(100))
    assert bytes(100) == reading.content(str(photo), 200_000)
    monkeypatch.setattr(os, "fstat", then(150_000))
    assert bytes(150_000) == reading.content(str(photo), 200_000)
    monkeypatch.setattr(os, "fstat", then(1 << 40))
    with pytest.raises(OSError, match="more than the 150000 bytes"):
        reading.content(str(photo), 200_000)


def test_an_error_that_passes_is_waited_for(tmp_path, monkeypatch):
    """A drive that is away for a moment costs no photo; missing rights are not waited for."""
    monkeypatch.setattr(reading, "_PAUSES_S", (0.0, 0.0))
    tries = []

    def read(error: int | None) -> str:
        tries.append(1)
        if error is not None and len(tries) < 3:
            raise OSError(error, os.strerror(error))
        return "read"

    assert "read" == reading.retried(lambda: read(errno.ESTALE))
    tries.clear()
    with pytest.raises(PermissionError):
        reading.retried(lambda: read(errno.EACCES))
    assert [1] == tries


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
    made(tmp_path, ["kimchi/1.jpg"])
    (tmp_path / "photos.csv").write_bytes(text.encode(encoding))
    (photo,) = scan(tmp_path / "photos.csv").photos
    assert ("kimchi/1.jpg", "김치") == (photo.name, photo.label)


def test_western_signs_are_read(tmp_path):
    """`crème` from a Western Excel is no Korean."""
    made(tmp_path, ["1.jpg"])
    (tmp_path / "t.csv").write_bytes("path,label\n1.jpg,crème brûlée\n".encode("cp1252"))
    assert "crème brûlée" == scan(tmp_path / "t.csv").photos[0].label


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"PK\x03\x04rest", "workbook"), (b"path,name\n1.jpg,a\n", "needs the columns"),
        (b"", "needs the columns"), (b"path,label\nnowhere.jpg,egg\n", "names no photo"),
        (b"\x00\x01\x02\x03" * 9, "no text|no encoding|needs the columns"),
    ],
)  # fmt: skip
def test_what_is_no_table_is_named(tmp_path, content, words):
    """And how to save it, where a spreadsheet made it."""
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(FolderError, match=words):
        scan(tmp_path / "t.csv")


def test_a_table_gives_splits_and_groups(tmp_path):
    """`valid` is val; two labels for one photo, and splits for some alone, are refused."""
    made(tmp_path, ["1.jpg", "2.jpg"])
    table = tmp_path / "t.toml"
    table.write_text(
        '[[photo]]\npath = "1.jpg"\nlabel = "egg"\nsplit = "train"\ngroup = "shop 1"\n'
        '[[photo]]\npath = "2.jpg"\nlabel = "rice"\nsplit = "valid"\n'
    )
    assert [("train", "shop 1"), ("val", "")] == [(p.split, p.group) for p in scan(table).photos]
    table = tmp_path / "t.csv"
    table.write_text("path,label\n1.jpg,egg\n1.jpg,rice\n2.jpg,egg\n")
    assert "line 3: 1.jpg is 'rice', and in line 2 'egg'" in scan(table).refusal
    table.write_text("path,label,split\n1.jpg,egg,train\n2.jpg,egg,\n")
    assert "for some photos only" in scan(table).refusal
