"""Every kind of folder that people brought: made by the shared script, looked at by every verb."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from photo_folder.left_out import LeftOut
from photo_folder.scan import photos_in, scan
from tests.paths import ROOT
from tests.photo_folder.rights import without_rights
from training.data.dataset import scan as scan_to_train
from training.data.prepare import prepare
from training.datasheet.inspection import inspect
from training.errors import DataError


def names(folder: Path) -> set[Path]:
    """Return the photos that training sees, which must be those that `classify` sees."""
    found = scan(folder)
    seen = {found.root / photo.name for photo in found.photos}
    assert seen == {path for path, _ in photos_in(folder, LeftOut())}
    return seen


def lines(folder: Path) -> str:
    """Return what a person is told of what was left out."""
    return " | ".join(scan(folder).left_out.lines())


def test_every_case_is_tried(case):
    """A new id in the shared script needs a test here, or of tables."""
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert not [name for name in case.ids if f'"{name}"' not in tests]


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("mac", (".DS_Store", "__MACOSX", "._*")),
        ("syn", ("2 × @eaDir", "#recycle")),
        ("win", ("2 × Thumbs.db", "$RECYCLE.BIN", "System Volume Information", "desktop.ini")),
        ("macdata", ("__MACOSX",)),
        ("split", ("__MACOSX",)),
        ("empty40", ("no photos in zz_empty",)),
    ],
)
def test_what_systems_leave_is_skipped_and_said_once(case, tmp_path, folder, words):
    """A1: archives, network drives and Windows cost no class, in any verb."""
    place = case("A1") / folder
    names(place)
    assert all(lines(place).count(word) == 1 for word in words)
    labels = set(prepare(place, 32, cache_root=tmp_path).labels)
    assert not labels & {"__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "zz_empty"}
    assert inspect(place).error is None


def test_a_folder_of_the_system_without_rights_is_skipped(case, tmp_path):
    """A2: `lost+found` is never opened."""
    done = without_rights("-m", "hansang", "prepare", str(case("A2") / "p"), "--image-size", "32",
                          "--cache-dir", str(tmp_path))  # fmt: skip
    assert (0, 1) == (done.returncode, done.stderr.count("lost+found"))


def test_photos_below_class_folders_count_for_the_first_folder(case):
    """A3: 52 photos of four classes; a class may have all of them in folders by date."""
    assert 52 == len(names(case("A3") / "p"))
    counts = scan_to_train(case("A3") / "only").counts()
    assert 9 == sum(split["soup"] for split in counts.values())


def test_links_are_followed_once_and_counted_where_they_break(case):
    """A4: a linked class counts, a loop ends, links to nowhere are told."""
    for folder, broken in (("p", "2 broken links"), ("p2", "1 broken link")):
        assert 24 == len(names(case("A4") / folder))
        assert broken in lines(case("A4") / folder)
        assert "1 link into a loop" in lines(case("A4") / folder)


def test_what_cannot_be_opened_is_left_out_by_name(case, tmp_path):
    """A5: a photo and a class folder without rights; with rights again, the photo is taken."""
    photo = case("A5") / "p" / "egg" / "7.jpg"
    command = ("-m", "hansang", "prepare", str(case("A5") / "p"), "--image-size", "32",
               "--cache-dir", str(tmp_path / "cache"), "--json")  # fmt: skip
    done = without_rights(*command)
    assert {"egg/7.jpg": "cannot be read: Permission denied"} == json.loads(done.stdout)[
        "bad_files"
    ]
    photo.chmod(0o644)
    again = json.loads(without_rights(*command).stdout)
    photo.chmod(0)
    assert ({}, 32) == (again["bad_files"], sum(again["photos"].values()))
    for verb in (("prepare", "--cache-dir", "c"), ("inspect", "--out", "o")):
        place = tmp_path / verb[2]
        done = without_rights(
            "-m", "hansang", verb[0], str(case("A5") / "dir"), verb[1], str(place)
        )
        assert done.returncode == 0
        assert "cannot be read: rice (Permission denied)" in done.stderr


def test_suffixes_are_read_or_counted(case):
    """A6: JPEG by all of its suffixes is read; what is not read is counted by suffix."""
    read = {path.suffix.lower() for path in names(case("A6") / "p")}
    assert {".jpg", ".jpe", ".jfif"} <= read
    seen = {path.suffix.lower() for path in names(case("A6") / "mixed")}
    told = lines(case("A6") / "mixed")
    assert "6 files without a suffix" in told
    for suffix in (".bmp", ".tif", ".gif"):
        assert suffix in seen or f"1 {suffix}" in told


def test_a_class_of_a_format_that_is_not_read_is_named(case, tmp_path):
    """A6: not 'fill it or remove it', which would cost good photos."""
    with pytest.raises(DataError, match="soup") as refused:
        prepare(case("A6") / "allheic", 32, cache_root=tmp_path)
    assert "heic" in str(refused.value).lower()


def test_names_that_are_not_utf8_are_refused_or_classified(case):
    """A8: training says which name; `classify` sees every photo."""
    for folder in sorted(case("A8").iterdir()):
        with pytest.raises(DataError, match="not UTF-8") as refused:
            scan_to_train(folder)
        str(refused.value).encode()
        assert names(folder)


@pytest.mark.parametrize(
    ("folder", "splits"),
    [("caps", {"train", "val"}), ("valid", {"train", "val", "test"}),
     # Flat: their splits are not drawn before contents are read.
     ("vehicles", {""}), ("testdish", {""})],
)  # fmt: skip
def test_splits_by_other_names_are_taken_and_classes_stay_classes(case, folder, splits):
    """A9: `Train`, `valid`; flat classes that are called `train` or `test`."""
    found = scan_to_train(case("A9") / folder)
    assert splits == set(found.counts())
    if folder in ("vehicles", "testdish"):
        assert {path.name for path in (case("A9") / folder).iterdir()} == set(found.labels)


def test_a_missing_split_is_named_with_the_way_out(case):
    """A9: train and test without val."""
    with pytest.raises(DataError, match="no val folder; rename test to val"):
        scan_to_train(case("A9") / "noval")


@pytest.mark.parametrize("name", ["A11", "A12", "A13", "A14", "A16"])
def test_odd_pictures_cost_no_class(case, tmp_path, name):
    """Pixels have tests of their own: here every class is prepared and inspected alike."""
    cache = prepare(case(name) / "p", 32, cache_root=tmp_path)
    assert ("kimchi", "rice") == cache.labels
    assert set(cache.bad_files) == set(inspect(case(name) / "p").bad_files)


def test_broken_photos_are_named_alike_and_never_refuse_a_class(case, tmp_path):
    """A15, A19: the verdict is the same in the cache and the sheet; a class with two good stays."""
    cache = prepare(case("A15") / "p", 32, cache_root=tmp_path)
    assert set(cache.bad_files) == set(inspect(case("A15") / "p").bad_files)
    assert {"rice/cut50.jpg", "rice/html.jpg", "rice/zero.jpg"} <= set(cache.bad_files)
    assert all(set(split.targets) == {0, 1} for split in cache.splits.values())


def test_control_characters_are_refused_by_name(case):
    """A17: a line break would make two names of one, wherever names are listed."""
    for folder, name in (("newline", r"a\\nb"), ("tab", r"tab\\tx"), ("cr", r"a\\rb")):
        with pytest.raises(DataError, match=f"'{name}'.*control character"):
            scan_to_train(case("A17") / folder)


def test_look_alikes_are_pointed_out_and_other_names_kept(case):
    """A17, X: `egg` and `egg ` are two classes, and a line asks whether they are."""
    for name, folder, words in (
        ("A17", "space", "'egg' and 'egg '"),
        ("X", "case", "'RICE' and 'Rice' and 'rice'"),
        ("X", "lead", "' egg' and 'egg'"),
    ):
        assert words in " ".join(scan_to_train(case(name) / folder).notes)
    odd = case("A17") / "odd"
    assert {path.name for path in odd.iterdir()} == set(scan_to_train(odd).labels)


def test_a_folder_by_any_name_is_prepared_once(case, tmp_path):
    """A18: a pattern's signs in its name; the second time no photo is read."""
    for folder in sorted(case("A18").iterdir()):
        first = prepare(folder, 32, cache_root=tmp_path)
        built = (first.path / "manifest.json").stat().st_mtime_ns
        again = prepare(folder, 32, cache_root=tmp_path)
        assert (first.path, built) == (
            again.path, (again.path / "manifest.json").stat().st_mtime_ns
        )  # fmt: skip


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("one", "'solo' has one photo"), ("twobroken", "'duo' has one readable photo"),
        ("single", "one class"), ("valextra", "'soup' is missing from train"),
        ("valless", "'pizza', 'rice' is missing from val"),
        ("testextra", "'soup' is missing from train"),
    ],
)  # fmt: skip
def test_small_classes_are_named_with_what_to_do(case, tmp_path, folder, words):
    """A19: which class, and why."""
    with pytest.raises(DataError, match=words):
        prepare(case("A19") / folder, 32, cache_root=tmp_path)


def test_two_photos_are_enough(case, tmp_path):
    """A19: one to train and one to validate."""
    for folder in ("two", "three"):
        assert 5 == len(prepare(case("A19") / folder, 32, cache_root=tmp_path).labels)


@pytest.mark.parametrize("name", ["J1", "J5"])
def test_markup_in_class_names_is_text(case, tmp_path, name):
    """J1, J5: labels come back as they went in, and their sheet is drawn."""
    from training.datasheet.sheet import write

    folder = case(name) / "p"
    sheet = inspect(folder)
    page = write(sheet, tmp_path / "sheet").read_text("utf-8")
    assert {path.name for path in folder.iterdir()} == set(sheet.folder.labels)
    assert "<img src=x" not in page


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("empty", "it is empty"), ("emptyclasses", "no photos in a, b"), ("p.zip", "unpack it"),
        ("loose", "lie directly in"), ("nfc", "differ only in Unicode form"),
    ],
)  # fmt: skip
def test_a_mistake_has_a_sentence_of_its_own(case, folder, words):
    """X: seven mistakes, seven sentences."""
    with pytest.raises(DataError, match=words):
        scan_to_train(case("X") / folder)


def test_own_inventions_are_prepared(case, tmp_path):
    """X: a wrapping folder, files beside classes, wrong suffixes, the smallest pictures."""
    wrap = scan_to_train(case("X") / "wrap")
    assert ("egg", "kimchi", "pizza", "rice") == wrap.labels
    assert "1 file without a suffix (soup)" in lines(case("X") / "fileclass")
    for folder in ("wrongext", "tiny", "hugealpha", "small"):
        cache = prepare(case("X") / folder, 32, cache_root=tmp_path)
        assert set(cache.bad_files) == set(inspect(case("X") / folder).bad_files)


def test_photos_of_every_size_are_trained_on_and_classified(case, tmp_path):
    """A7: 50 to 108 MP, a panorama and 23 MB of noise: none is left out, and memory is bounded."""
    photos = case("A7") / "p"
    large = {"a49.9MP.jpg", "b50.3MP.jpg", "c64MP.jpg", "d108MP.jpg", "e_pano.jpg", "f24MiB.jpg"}
    script = (
        "import re, sys\n"
        "from pathlib import Path\n"
        "from service.pixels.preprocessing import load_square\n"
        "from training.data.prepare import prepare\n"
        "cache = prepare(Path(sys.argv[1]), 64, cache_root=Path(sys.argv[2]))\n"
        "for photo in sorted(Path(sys.argv[1]).glob('rice/[a-f]*')):\n"
        "    print(photo.name, load_square(photo.read_bytes(), 64).shape)\n"
        # Not getrusage: its figure begins with that of the process that started this one.
        "peak = re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]\n"
        "print(dict(cache.bad_files), int(peak) // 1024)\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", script, str(photos), str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip

    assert 0 == done.returncode, done.stderr
    *decoded, last = done.stdout.splitlines()
    assert {f"{name} (64, 64, 3)" for name in large} == set(decoded)
    left_out, _, peak_mib = last.rpartition(" ")
    assert "{}" == left_out
    # Whole, these photos have 1.3 GiB of pixels. A quiet machine decodes two at a time.
    assert int(peak_mib) < 3000
    assert large <= {path.name for path in names(photos)}
