"""Photos are decoded once, by the function that serves; what is bad is named and left out."""

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from service.pixels.preprocessing import PREPROCESSING, load_square
from storage import StorageError
from training.config import AugmentConfig
from training.data import decoding
from training.data.cache import DatasetCache, crops_side
from training.data.prepare import prepare
from training.errors import DataError

COUNTS = {"train/a": 4, "train/b": 3, "val/a": 2, "val/b": 2}


def test_rows_are_the_pixels_that_a_server_makes(folder, tmp_path):
    """Every row is `load_square` of its file, in every split."""
    root = folder(COUNTS)

    cache = prepare(root, 32, cache_root=tmp_path / "cache")

    assert {"train": 7, "val": 4} == {k: len(v.targets) for k, v in cache.splits.items()}
    for split in cache.splits.values():
        for row, name in enumerate(split.files):
            assert np.array_equal(split.images[row], load_square((root / name).read_bytes(), 37))
            assert cache.labels[split.targets[row]] == name.split("/")[1]


def test_crops_are_cut_from_larger_squares_of_the_same_photos(folder, tmp_path):
    """Train has them in its own order, whatever was left out; only steps that crop are given them.

    A cache after it takes them over for the photos that it has already.
    """
    root = folder(COUNTS)
    (root / "train" / "a" / "0.jpg").write_bytes(b"no photo")
    cache = prepare(root, 32, cache_root=tmp_path / "cache")

    train, side = cache.splits["train"], crops_side(32)
    assert 46 == side
    for row, name in enumerate(train.files):
        assert np.array_equal(train.crops[row], load_square((root / name).read_bytes(), side))
    assert cache.splits["val"].crops is None

    assert train.to_learn_from(AugmentConfig(sharp_crops=True)).images is train.crops
    for plain in (AugmentConfig(), AugmentConfig(sharp_crops=True, crop_area=1)):
        assert train.to_learn_from(plain).images is train.images

    (root / "train" / "a" / "0.jpg").unlink()
    (root / "train" / "b" / "0.jpg").rename(root / "train" / "b" / "9.jpg")
    after = prepare(root, 32, cache_root=tmp_path / "cache").splits["train"]
    for row, name in enumerate(after.files):
        assert np.array_equal(after.crops[row], load_square((root / name).read_bytes(), side))


def test_a_cache_without_larger_squares_is_trained_on_as_before(folder, tmp_path):
    """Runs that began with one go on with it."""
    path = prepare(folder(COUNTS), 32, cache_root=tmp_path / "cache").path
    manifest = json.loads((path / "manifest.json").read_text("utf-8"))
    del manifest["crops"]
    (path / "manifest.json").write_text(json.dumps(manifest))
    (path / "crops.npy").unlink()

    train = DatasetCache.open(path).splits["train"]
    assert train.to_learn_from(AugmentConfig(sharp_crops=True)) is train


def test_bad_files_are_left_out_and_named(folder, tmp_path, photo):
    """Truncated, empty and false photos cost nothing but themselves."""
    root = folder(COUNTS)
    (root / "train" / "a" / "0.jpg").write_bytes(photo(1, (300, 300))[:200])
    (root / "train" / "b" / "1.jpg").write_bytes(b"")
    (root / "val" / "a" / "x.png").write_bytes(b"hello")

    cache = prepare(root, 32, cache_root=tmp_path / "cache")

    assert {"train/a/0.jpg", "train/b/1.jpg", "val/a/x.png"} == set(cache.bad_files)
    split = cache.splits["train"]
    assert (
        "train/a/1.jpg",
        "train/a/2.jpg",
        "train/a/3.jpg",
        "train/b/0.jpg",
        "train/b/2.jpg",
    ) == (split.files)
    for row, name in enumerate(split.files):
        assert np.array_equal(split.images[row], load_square((root / name).read_bytes(), 37))


def test_a_class_without_a_readable_photo_is_an_error(folder, tmp_path):
    """A class that would be empty is named, with one of its files and the reason."""
    root = folder(COUNTS)
    for path in (root / "val" / "b").iterdir():
        path.write_bytes(b"junk")

    with pytest.raises(DataError, match=r"'b' has no readable photo in val"):
        prepare(root, 32, cache_root=tmp_path / "cache")
    assert [] == [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


def test_nothing_is_built_twice(folder, tmp_path):
    """Unchanged files are not read again; new file times cost a look; new content a new cache."""
    root = folder(COUNTS)
    first = prepare(root, 32, cache_root=tmp_path / "cache")
    built_ns = (first.path / "train.npy").stat().st_mtime_ns

    assert first.path == prepare(root, 32, cache_root=tmp_path / "cache").path
    for path in root.rglob("*.jpg"):
        os.utime(path, (1, 1))
    again = prepare(root, 32, cache_root=tmp_path / "cache")
    assert first.path == again.path
    assert built_ns == (again.path / "train.npy").stat().st_mtime_ns

    (root / "train" / "a" / "0.jpg").write_bytes((root / "train" / "b" / "0.jpg").read_bytes())
    changed = prepare(root, 32, cache_root=tmp_path / "cache")
    assert first.path != changed.path
    assert first.dataset_hash != changed.dataset_hash


def test_a_killed_build_leaves_nothing_that_counts(folder, tmp_path):
    """The half-built folder of a killed build is no cache, and the next build removes it."""
    root = folder(COUNTS)
    path = prepare(root, 32, cache_root=tmp_path / "cache").path
    (path / "manifest.json").unlink()
    path.rename(path.with_name(f".tmp-{path.name}"))
    with pytest.raises(DataError, match="no dataset cache"):
        DatasetCache.open(path)

    prepare(root, 32, cache_root=tmp_path / "cache")

    assert [path.name] == [p.name for p in (tmp_path / "cache").iterdir() if p.is_dir()]


def test_pixels_of_another_rule_are_refused(folder, tmp_path):
    """A run that was trained on them would be released as one trained on those that are served."""
    path = prepare(folder(COUNTS), 32, cache_root=tmp_path / "cache").path
    manifest = path / "manifest.json"
    manifest.write_text(manifest.read_text().replace(PREPROCESSING, "some-rule-1"))
    with pytest.raises(DataError, match="some-rule-1"):
        DatasetCache.open(path)


def test_two_builders_at_once_both_get_the_cache(folder, tmp_path):
    """The second waits for the first and takes what it built."""
    root = folder({"train/a": 60, "train/b": 60, "val/a": 20, "val/b": 20})

    with ThreadPoolExecutor(2) as pool:
        builders = [pool.submit(prepare, root, 64, cache_root=tmp_path / "cache") for _ in range(2)]
        first, second = (builder.result() for builder in builders)

    assert first.path == second.path
    assert np.array_equal(first.splits["train"].images, second.splits["train"].images)


def test_processes_decode_what_threads_do(folder, tmp_path, monkeypatch):
    """Many photos are decoded by processes: the same bytes, bad photos named as ever."""
    root = folder({"train/a": 40, "train/b": 30, "val/a": 20, "val/b": 20})
    (root / "train" / "a" / "7.jpg").write_bytes(b"no photo")
    threads = prepare(root, 32, cache_root=tmp_path / "threads")

    monkeypatch.setattr(decoding, "_FEW", 0)
    processes = prepare(root, 32, cache_root=tmp_path / "processes")

    assert processes.path.name == threads.path.name
    for name in ("train.npy", "val.npy", "crops.npy"):
        assert (processes.path / name).read_bytes() == (threads.path / name).read_bytes()
    assert list(processes.bad_files) == ["train/a/7.jpg"]
    assert processes.bad_files == threads.bad_files


@pytest.mark.parametrize("damage", ["no manifest", "other format", "no JSON", "half copied"])
def test_what_is_no_whole_cache_is_built_again(folder, tmp_path, damage):
    """A folder that was copied by half, or whose manifest is gone, costs a build and no person."""
    root = folder(COUNTS)
    path = prepare(root, 32, cache_root=tmp_path / "cache").path
    manifest = path / "manifest.json"
    if damage == "no manifest":
        manifest.unlink()
    elif damage == "half copied":
        os.truncate(path / "train.npy", 500)
    else:
        manifest.write_text("{" if damage == "no JSON" else '{"format": 99}')

    cache = prepare(root, 32, cache_root=tmp_path / "cache")

    assert path == cache.path
    assert 7 == len(cache.splits["train"].images)


def test_a_cache_that_has_no_place_is_refused_before_photos_are_read(folder, tmp_path):
    """`--cache-dir` on a file is a sentence that names it."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match=r"--cache-dir .*file is no folder"):
        prepare(folder(COUNTS), 32, cache_root=tmp_path / "file")


def test_a_cache_that_only_others_may_write_is_used(folder, tmp_path, monkeypatch):
    """Copies of its photos, elsewhere or with other times, need no place to write; new ones do."""
    root = folder(COUNTS)
    first = prepare(root, 32, cache_root=tmp_path / "cache")
    copy = tmp_path / "copy" / root.name
    shutil.copytree(root, copy)
    for path in copy.rglob("*.jpg"):
        os.utime(path, (1, 1))

    def denied(*_args, **_options) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("storage.writing.tempfile.mkdtemp", denied)
    monkeypatch.setattr("training.data.prepare.write_text", denied)
    assert first.path == prepare(copy, 32, cache_root=tmp_path / "cache").path
    (copy / "train" / "a" / "0.jpg").write_bytes((copy / "train" / "b" / "0.jpg").read_bytes())
    with pytest.raises(StorageError, match=r"cannot be written \(Permission denied\)"):
        prepare(copy, 32, cache_root=tmp_path / "cache")


def test_a_class_that_bad_photos_left_bare_is_drawn_anew(folder, tmp_path):
    """The one photo that validates is broken: another takes its place, no class is refused."""
    root = folder({"a": 10, "b": 10})
    before = prepare(root, 32, cache_root=tmp_path / "cache")
    (only,) = [name for name in before.splits["val"].files if name.startswith("a/")]
    (root / only).write_bytes(b"no photo")

    cache = prepare(root, 32, cache_root=tmp_path / "cache")

    assert [only] == list(cache.bad_files)
    names = [name for split in cache.splits.values() for name in split.files]
    assert len(names) == len(set(names)) == 19
    for split in cache.splits.values():
        assert {0, 1} == set(split.targets.tolist())
        for row, name in enumerate(split.files):
            assert np.array_equal(split.images[row], load_square((root / name).read_bytes(), 37))
    # Class b had no bad photo, and keeps its split.
    kept = [name for name in before.splits["val"].files if name.startswith("b/")]
    assert kept == [name for name in cache.splits["val"].files if name.startswith("b/")]
    assert cache.path == prepare(root, 32, cache_root=tmp_path / "cache").path


def test_photos_of_a_group_stay_together(tmp_path, photo):
    """A table's groups are never cut by the split that is drawn."""
    rows = ["path,label,group"]
    for number in range(40):
        (tmp_path / f"{number}.jpg").write_bytes(photo(number))
        rows.append(f"{number}.jpg,{'ab'[number % 2]},object {number // 4}")
    (tmp_path / "t.csv").write_text("\n".join(rows))

    cache = prepare(tmp_path / "t.csv", 32, cache_root=tmp_path / "cache")

    groups = [set(split.groups) for split in cache.splits.values()]
    assert 10 == sum(map(len, groups)) == len(set.union(*groups))
    assert {"train", "val"} <= set(cache.splits)
