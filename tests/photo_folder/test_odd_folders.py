"""Odd folders and tables beyond the shared cases, as users of other projects report them.

Each is a line in docs/notes/odd-inputs.md. A file's content does not matter here: names decide.
"""

import os
import re
from collections import Counter
from pathlib import Path

import pytest

from photo_folder.left_out import LeftOut
from photo_folder.scan import photos_in, scan
from tests.photo_folder.rights import without_rights

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
        # COCO, numbered folders, AI-Hub: what stands around a split's name
        ([f"{split}2017/{name}" for split in ("train", "val") for name in FLAT],
         {"egg", "rice"}, {"train", "val"}, ""),
        ([f"{split}/{name}" for split in ("01_train", "02_val", "3 - test") for name in FLAT],
         {"egg", "rice"}, {"train", "val", "test"}, ""),
        ([f"{split}/{name}" for split in ("1.Training", "2.Validation") for name in FLAT],
         {"egg", "rice"}, {"train", "val"}, ""),
        ([f"{split}/{name}" for split in ("훈련", "검증용", "평가 데이터") for name in FLAT],
         {"egg", "rice"}, {"train", "val", "test"}, ""),
        # one folder in each split that holds the classes: an archive in a split
        ([f"{split}/{name}" for split in ("train/train", "val/val") for name in FLAT],
         {"egg", "rice"}, {"train", "val"}, ""),
        ([f"{split}/{name}" for split in ("Training/[원천]음식", "Validation/[원천]음식")
          for name in FLAT], {"egg", "rice"}, {"train", "val"}, ""),
        # a test split of one class, by date, is no such folder
        ([*SPLIT, "test/egg/2026-01/1.jpg", "test/egg/2026-02/1.jpg"], {"egg", "rice"},
         {"train", "val", "test"}, ""),
        # Windows and a network drive: a stream of each file as a file of its own
        ([*FLAT, "egg/1.jpg:Zone.Identifier", "rice/1.jpg:Zone.Identifier",
          "egg/1.jpg@SynoEAStream"], {"egg", "rice"}, {""},
         "2 × *:zone.identifier, *@synoeastream"),
        # fetched with the question in their names; a backup of an editor of EXIF
        ([*FLAT, "soup/1.jpg?w=640", "soup/2.png?v=1.5", "egg/1.jpg_original"],
         {"egg", "rice", "soup"}, {""}, "1 .jpg_original"),
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
        (["images/train2017/1.jpg", "images/val2017/2.jpg"], "without class folders"),
        ([*FLAT, "soup/1.heic", "soup/2.heic"], r"soup \(2 .heic\)"),
        ([*FLAT, "soup/IMG_1", "soup/IMG_2"], r"soup \(2 without a suffix\)"),
        ([*FLAT, "a\x7fb/1.jpg"], "control character"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_way_out(tmp_path, files, words):
    """One sentence a mistake."""
    assert re.search(words, scan(made(tmp_path / "p", files)).refusal)


def test_what_was_understood_is_said(tmp_path):
    """Splits by other names, folders around the classes; nothing where all is plain to see."""

    def notes(name: str, files: list[str]) -> tuple[str, ...]:
        return scan(made(tmp_path / name, files)).notes

    assert () == notes("plain", SPLIT) == notes("one", ["train/egg/1.jpg", "val/egg/1.jpg"])
    wrapped = [f"{split}/all/{name}" for split in ("Training", "val") for name in FLAT]
    assert (
        "photos are taken from food, the only folder with photos",
        "Training is taken as train",
        "photos are taken from food/Training/all and food/val/all, the only folders there",
    ) == notes("wrapped", [f"food/{name}" for name in wrapped])
    test = [f"{split}/{name}" for split in ("train", "Testing") for name in FLAT]
    found = scan(made(tmp_path / "test", test))
    assert "but no val folder; rename Testing to val, or move some" in found.refusal


def test_links_between_folders_do_not_multiply(tmp_path):
    """Twelve folders that each link to all: every photo is met, and the look ends."""
    root = made(tmp_path / "p", [f"{n}/{n}.jpg" for n in range(12)])
    for one in range(12):
        for other in range(12):
            (root / str(one) / f"to{other}").symlink_to(root / str(other))
    found = Counter(path.name for path, _ in photos_in(root, LeftOut()))
    assert 12 == len(found)
    assert sum(found.values()) < 12**3


def test_a_link_into_itself_is_told_and_costs_nothing(tmp_path):
    """To the top, to the folder that it lies in, to its own name; one to nowhere is another."""
    root = made(tmp_path / "p", FLAT)
    (root / "egg" / "top").symlink_to(root)
    (root / "rice" / "own").symlink_to(root / "rice")
    (root / "rice" / "self.jpg").symlink_to("self.jpg")
    (root / "rice" / "x.jpg").symlink_to("nowhere.jpg")
    found = scan(root)
    assert FLAT == [photo.name for photo in found.photos]
    told = "left out: 1 broken link (rice/x.jpg); 3 links into a loop (egg/top)"
    assert [told] == found.left_out.lines()


def test_a_pipe_is_no_photo_and_stops_nothing(tmp_path):
    """Opening one to read would wait for ever."""
    root = made(tmp_path / "p", FLAT)
    os.mkfifo(root / "egg" / "x.jpg")
    assert "1 pipe or device (egg/x.jpg)" in scan(root).left_out.lines()[0]


def test_a_split_without_rights_is_refused_by_its_name(tmp_path):
    """Not taken for a set that has no such split, which would be another set without a word."""
    data = made(tmp_path / "data", [*SPLIT, *(f"test/{name}" for name in FLAT)])
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from photo_folder.scan import scan\n"
        "for split in ('train', 'val', 'test'):\n"
        "    locked = Path(sys.argv[1], split)\n"
        "    locked.chmod(0)\n"
        "    print(scan(locked.parent).refusal)\n"
        "    locked.chmod(0o755)\n"
        "print([scan(locked.parent).refusal])\n"
    )

    done = without_rights("-c", code, str(data))

    assert [
        *(f"{data}/{split} cannot be read (Permission denied); give the right to read it, or move"
          " it" for split in ("train", "val", "test")),
        "['']",
    ] == done.stdout.splitlines(), done.stderr  # fmt: skip
