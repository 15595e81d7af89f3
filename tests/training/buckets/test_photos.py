"""Photos in a bucket: the copy is what the bucket has, and only what is new is fetched."""

import os
import shutil
from collections import Counter
from pathlib import Path

import pytest

from storage import Bucket, StorageError
from training.buckets import photos
from training.cli.photos import look_again
from training.data.dataset import scan
from training.data.prepare import prepare
from training.errors import DataError
from training.samples.sample import draw_photos

URL = Path("s3://bucket/photos")


@pytest.fixture
def folder(bucket, tmp_path, monkeypatch):
    """Give a folder of photos with all that people leave in one; the bucket has the same."""
    monkeypatch.setenv("HANSANG_WORK", str(tmp_path / "work"))
    folder = tmp_path / "photos"
    draw_photos(folder, classes=2, per_class=5)
    (folder / "notes.txt").write_text("bought on Monday")
    kind = next(path for path in (folder / "train").iterdir() if path.is_dir())
    (kind / "phone.heic.raw").write_bytes(b"raw")
    (kind / ".DS_Store").write_bytes(b"mac")
    (kind / "broken.jpg").write_bytes(b"no photo")
    bucket.put(str(folder), "bucket/photos", recursive=True)
    bucket.pipe_file("bucket/photos-2/kind/no.jpg", b"another prefix")
    return folder


@pytest.fixture
def got(monkeypatch):
    """Count what is fetched, by name."""
    got = Counter()
    fetch = Bucket.fetch

    def counted(self, name, path):
        got[name] += 1
        return fetch(self, name, path)

    monkeypatch.setattr(Bucket, "fetch", counted)
    return got


def here():
    """Return what is in the copy: name → content."""
    copy = photos.place_of("s3://bucket/photos")
    return {
        path.relative_to(copy).as_posix(): path.read_bytes()
        for path in copy.rglob("*")
        if path.is_file()
    }


def there(bucket):
    """Return the photos in the bucket: name → content."""
    names = (key for key in bucket.find("bucket/photos") if key.endswith(".jpg"))
    return {key.removeprefix("bucket/photos/"): bucket.cat_file(key) for key in names}


def only_photos():
    """Return the photos in the copy: name → content."""
    return {name: content for name, content in here().items() if name.endswith(".jpg")}


def test_a_bucket_is_the_same_data_set_as_a_folder(folder, tmp_path):
    """The same hash, classes and splits, and the same said of what is no photo."""
    local = prepare(folder, 32, cache_root=tmp_path / "one")
    remote = prepare(URL, 32, cache_root=tmp_path / "two")

    assert local.dataset_hash == remote.dataset_hash
    assert local.bad_files == remote.bad_files
    assert local.path.name == remote.path.name
    seen, seen_there = scan(folder), scan(URL)
    assert seen.counts() == seen_there.counts()
    assert any("raw" in line for line in seen.lines())
    told = [line for line in seen.lines() if "left by a system" not in line]
    assert told == seen_there.lines()
    assert seen_there.root == photos.place_of("s3://bucket/photos")


def test_only_what_is_new_is_fetched(folder, bucket, got):
    """One photo added, one changed, one removed: two are fetched, and one leaves."""
    scan(URL)
    names = sorted(there(bucket))
    assert dict.fromkeys(names, 1) == dict(got)
    copy = photos.place_of("s3://bucket/photos")
    times = {name: (copy / name).stat().st_mtime_ns for name in names}
    got.clear()
    scan(URL)
    assert not got

    added = f"{Path(names[0]).parent}/new.jpg"
    bucket.pipe_file(f"bucket/photos/{added}", (folder / names[0]).read_bytes()[:-1] + b"x")
    bucket.pipe_file(f"bucket/photos/{names[1]}", (folder / names[0]).read_bytes())
    bucket.rm_file(f"bucket/photos/{names[2]}")
    scan(URL)

    assert {added: 1, names[1]: 1} == dict(got)
    assert there(bucket) == only_photos()
    kept = set(names) - {names[1], names[2]}
    assert {name: times[name] for name in kept} == {
        name: (copy / name).stat().st_mtime_ns for name in kept
    }


def test_what_changes_in_the_copy_is_told_by_its_content(folder, bucket, got):
    """Another content is fetched again, another time is not, and what is not the bucket's goes."""
    scan(URL)
    copy = photos.place_of("s3://bucket/photos")
    changed, touched, gone, linked = sorted(there(bucket))[:4]
    content = (copy / changed).read_bytes()
    (copy / changed).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(copy / touched, ns=(1, 1))
    (copy / gone).unlink()
    (copy / linked).unlink()
    (copy / linked).symlink_to(copy / touched)
    (copy / "notes.txt").write_text("somebody's")
    (copy / "train" / "mine" / "deep").mkdir(parents=True)
    (copy / "train" / "mine" / "deep" / "a.jpg").write_bytes(content)
    (copy / "elsewhere").symlink_to(folder)
    (copy / os.fsdecode(b"\xff.jpg")).write_bytes(content)
    got.clear()

    scan(URL)

    assert {changed: 1, gone: 1, linked: 1} == dict(got)
    assert there(bucket) == only_photos()
    assert here()["notes.txt"] == b""
    assert not (copy / "train" / "mine").exists()
    assert not (copy / linked).is_symlink()
    assert (folder / changed).is_file()


def test_a_kill_leaves_photos_that_are_absent_or_complete(folder, bucket, got, monkeypatch):
    """The next one fetches what is missing, and what was not yet written down, and no more."""
    monkeypatch.setattr(photos, "_BATCH", 4)
    monkeypatch.setattr(photos, "_AT_ONCE", 1)
    fetch = Bucket.fetch

    def killed(self, name, path):
        tag = fetch(self, name, path)
        if got.total() == 7:
            path.write_bytes(path.read_bytes()[:10])
            raise KeyboardInterrupt
        return tag

    with monkeypatch.context() as patched:
        patched.setattr(Bucket, "fetch", killed)
        with pytest.raises(KeyboardInterrupt):
            scan(URL)
    content = there(bucket)
    # The thread may take one more before it hears of it.
    assert len(only_photos()) in (6, 7)
    assert only_photos().items() <= content.items()
    # As a kill between the last bytes and the new name leaves it.
    left = photos.place_of("s3://bucket/photos") / "train" / ".tmp-0-a.jpg"
    left.write_bytes(b"part")
    got.clear()

    scan(URL)

    assert content == only_photos()
    assert not left.exists()
    assert got.total() <= len(content) - 3


def test_a_bad_network_costs_no_photo(folder, bucket, network):
    """Half of the connections fail, some in the middle of a photo."""
    with network.used():
        network.bad = 0.5
        scan(URL)
    assert network.hit > 3
    assert there(bucket) == only_photos()


def test_a_store_that_is_away_is_a_sentence_and_spares_a_run(folder, network, tmp_path):
    """What was fetched stays, and a run that goes on is told why nothing can be looked at."""
    scan(URL)
    before = here()
    with network.used(), pytest.MonkeyPatch.context() as patched:
        patched.setattr("storage.bucket._PAUSES_S", ())
        patched.setattr(Bucket.__init__, "__kwdefaults__", {"pauses_s": ()})
        network.go_away()
        with pytest.raises(StorageError, match="s3://bucket/photos"):
            scan(URL)
        assert isinstance(look_again(URL, tmp_path), DataError)
    assert before == here()


def test_a_prefix_without_photos_is_refused_and_keeps_the_copy(folder, bucket):
    """Also one that begins as another does, and one that was emptied, as a new store is."""
    for url in ("s3://bucket/none", "s3://bucket/photo", "s3://no-such-bucket"):
        with pytest.raises(StorageError, match=url):
            scan(Path(url))
    scan(URL)
    before = here()
    bucket.rm("bucket/photos", recursive=True)
    with pytest.raises(StorageError, match="has no photos"):
        scan(URL)
    assert before == here()


def test_keys_that_are_no_paths_are_left_out_and_said(folder, bucket, capsys, monkeypatch):
    """Nothing is written outside the copy, and the rest is there."""
    content = there(bucket)
    copy = photos.place_of("s3://bucket/photos")
    long = f"train/{'ㅎ' * 100}.jpg"
    for key in ("../escaped.jpg", "train//double.jpg", long):
        Bucket("s3://bucket/photos").write(key, b"odd")
    name = min(content)
    bucket.pipe_file(f"bucket/photos/{name}/below.jpg", b"in a photo")
    largest = max(map(len, content.values()))
    monkeypatch.setattr(photos, "MAX_BYTES", largest)
    bucket.pipe_file("bucket/photos/train/huge.jpg", b"x" * (largest + 1))

    scan(URL)

    told = capsys.readouterr().err
    assert "warning: not fetched:" in told
    assert f"train/huge.jpg has {largest + 1} bytes" in told
    assert "and 2 more" in told
    assert content.items() - only_photos().items() <= {(name, content[name])}
    assert not list(copy.parent.parent.rglob("escaped.jpg"))
    assert not any("double" in key or "ㅎ" * 100 in key for key in here())


def test_no_room_is_said_before_anything_is_fetched(folder, got, monkeypatch):
    """With how much is needed, and how to choose another place."""
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(photos.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(StorageError, match=r"need 1 MiB .* HANSANG_WORK"):
        scan(URL)
    assert not got


def test_a_place_that_cannot_be_used_and_a_broken_index_are_sentences(
    folder, tmp_path, monkeypatch
):
    """Both say where, and what to do."""
    copy = photos.place_of("s3://bucket/photos")
    scan(URL)
    (copy.parent / "index.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(StorageError, match=rf"index.sqlite: .*remove {copy.parent}"):
        scan(URL)
    (tmp_path / "file").touch()
    monkeypatch.setenv("HANSANG_WORK", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="HANSANG_WORK"):
        scan(URL)


def test_copies_of_prefixes_lie_apart():
    """Also of one within another, and of names that are alike."""
    urls = ["s3://photos", "s3://photos/a", "s3://photos/b/a", f"s3://{'x' * 60}/{'ㅎ' * 300}"]
    places = [photos.place_of(url) for url in urls]
    assert len(set(places)) == len(urls)
    for place in places:
        assert not any(place.is_relative_to(other) for other in places if other != place)
        assert all(len(os.fsencode(part)) < 200 for part in place.parts)
