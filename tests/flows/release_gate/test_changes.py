"""New photos: only they are decoded, and only enough of them are trained on."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flows.release_gate import changes
from service.models.repository import ModelRepository
from terminal import UserError
from training.data import decoding
from training.data.cache import DatasetCache, manifest_of
from training.data.prepare import prepare


@pytest.fixture
def data(photos: Path, tmp_path: Path) -> Path:
    """A copy of the drawn dishes."""
    return Path(shutil.copytree(photos, tmp_path / "photos"))


def test_only_new_photos_are_decoded(data, tmp_path, monkeypatch):
    """A second night decodes the one photo that came, and the cache is as if built anew."""
    old = prepare(data, 32, cache_root=tmp_path / "cache")
    label = old.labels[0]
    Image.new("RGB", (60, 50), (10, 200, 30)).save(data / "train" / label / "new.png")
    decoded = []
    really = decoding.load_square
    monkeypatch.setattr(
        decoding, "load_square", lambda data, side: decoded.append(len(data)) or really(data, side)
    )

    new = prepare(data, 32, cache_root=tmp_path / "cache")

    assert 2 == len(decoded), "the square that is validated, and the larger one for crops"
    fresh = prepare(data, 32, cache_root=tmp_path / "elsewhere")
    for name, split in fresh.splits.items():
        np.testing.assert_array_equal(split.images, new.splits[name].images)
        assert (split.files, split.hashes) == (new.splits[name].files, new.splits[name].hashes)
    assert new.dataset_hash == fresh.dataset_hash != old.dataset_hash


def test_an_older_cache_that_is_damaged_is_no_hindrance(data, tmp_path):
    """What cannot be copied is decoded."""
    old = prepare(data, 32, cache_root=tmp_path / "cache")
    (old.path / "train.npy").write_bytes(b"torn")
    (data / "train" / old.labels[0] / "new.jpg").write_bytes(
        next((data / "val" / old.labels[1]).iterdir()).read_bytes()
    )

    assert 49 == len(prepare(data, 32, cache_root=tmp_path / "cache").splits["train"].files)


def test_a_cache_without_hashes_is_brought_up_to_date(data, tmp_path):
    """One that an older version made says afterwards what lies in it, and where."""
    import json

    cache = prepare(data, 32, cache_root=tmp_path / "cache")
    manifest = json.loads((cache.path / "manifest.json").read_text())
    manifest.pop("root")
    for listed in manifest["splits"].values():
        listed.pop("hashes")
    (cache.path / "manifest.json").write_text(json.dumps(manifest))
    assert DatasetCache.open(cache.path).root is None

    again = prepare(data, 32, cache_root=tmp_path / "cache")

    assert cache.path == again.path
    assert data.resolve() == again.root
    assert cache.splits["val"].hashes == again.splits["val"].hashes


def test_a_change_is_counted_from_the_last_run_that_was_weighed(data, tmp_path):
    """Nothing known: all is new. Then one added and one relabelled of sixty."""
    store, root = ModelRepository(tmp_path / "models"), tmp_path / "cache"

    def change() -> changes.Change:
        now = changes.contents_of(changes.photos_of(manifest_of(prepared().path)))
        return changes.since_last_run(now, "food42", store.root, root)

    def prepared() -> DatasetCache:
        return prepare(data, 32, cache_root=root)

    cache = prepared()
    assert not change().known

    store.note("food42", "kept", {"dataset_hash": cache.dataset_hash})
    assert 0 == change().share

    first, second, _ = cache.labels
    photo = next((data / "train" / first).iterdir())
    photo.rename(data / "train" / second / "moved.jpg")
    Image.new("RGB", (60, 50), (10, 200, 30)).save(data / "train" / first / "new.png")
    later = change()

    assert (61, 2, 1) == (later.photos, later.added, later.removed)
    assert later.share == pytest.approx(3 / 61)
    assert "2 photos are new or relabelled and 1 are gone" in later.describe(0.1)


def test_photos_that_leak_or_are_broken_are_refused(data):
    """The data sheet's rules: the error counts what is wrong and names an example."""
    from training.datasheet.inspection import inspect

    changes.require_clean(inspect(data).to_dict())
    label = sorted(path.name for path in (data / "val").iterdir())[0]
    photo = next((data / "val" / label).iterdir())
    shutil.copy(photo, data / "train" / label / "leak.jpg")
    (data / "train" / label / "broken.jpg").write_bytes(b"junk")

    with pytest.raises(UserError, match=r"1 unreadable; 1 in more than one split.*broken.jpg"):
        changes.require_clean(inspect(data).to_dict())
