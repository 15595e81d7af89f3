"""Thirty nights: the disk does not fill, and nothing goes that anybody needs."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest
from PIL import Image

from flows.pruning import rule
from flows.release_gate import changes
from flows.release_gate.held_out import held_out
from service.models.model import Model
from service.models.repository import ModelRepository
from tests.service import tiny_onnx
from training.data.cache import manifest_of
from training.data.dataset import scan
from training.data.prepare import contents, prepare

DAY_S = 86400.0
CHECKPOINT_BYTES = 200_000


class Home:
    """A folder of photos that grows, and what the nights make of it."""

    def __init__(self, path: Path, photos: Path) -> None:
        self.path, self.data = path, Path(shutil.copytree(photos, path / "photos"))
        self.runs, self.caches = path / "runs", path / "cache"
        self.store = ModelRepository(path / "models")
        self.label = sorted(each.name for each in (self.data / "train").iterdir())[0]

    def grow(self, name: str) -> None:
        """Add a photo to train."""
        colour = tuple(name.encode()[-3:])
        Image.new("RGB", (60, 50), colour).save(self.data / "train" / self.label / f"{name}.png")

    def train(self, name: str, *, when_s: float, ended: bool = True) -> Path:
        """Leave what a training leaves: a cache, settings, checkpoints, a result."""
        cache, run = prepare(self.data, 32, cache_root=self.caches).path, self.runs / name
        (run / "checkpoints").mkdir(parents=True)
        (run / "checkpoints" / "best.safetensors").write_bytes(bytes(CHECKPOINT_BYTES))
        (run / "config.json").write_text(json.dumps({"cache": str(cache), "config": {}}))
        os.utime(cache / "manifest.json", (when_s, when_s))
        if ended:
            (run / "result.json").write_text("{}")
            os.utime(run / "result.json", (when_s, when_s))
        return run

    def weigh(self, run: Path, *, release: bool) -> None:
        """Leave what the gate leaves."""
        weighing = run / "export" / "tonight-0"
        weighing.mkdir(parents=True)
        manifest = manifest_of(Path(json.loads((run / "config.json").read_text())["cache"]))
        (weighing / "photos.json").write_text(json.dumps(changes.photos_of(manifest)))
        onnx = tiny_onnx.build(
            weighing / "model.onnx", properties={"dataset_hash": manifest["dataset_hash"]}
        )
        record = {"run": str(run), "weighing": "tonight-0"}
        record["dataset_hash"] = manifest["dataset_hash"]
        if release:
            photos = (weighing / "photos.json").read_text()
            self.store.publish("food42", onnx, record=record, files={"photos.json": photos}, keep=2)
        else:
            self.store.note("food42", "kept", {"version": None, **record})

    def change(self) -> changes.Change:
        """Ask what is new, as a night does."""
        folder = scan(self.data)
        digests = contents(folder)
        now = [
            (photo.split, folder.labels[photo.target], digests[folder.name(photo)])
            for photo in folder.photos
        ]
        return changes.since_last_run(now, "food42", self.store.root, self.caches)

    def prune(self, days: float = 3) -> list[rule.Removable]:
        """Remove what may be removed, and return it."""
        found = rule.removable(self.runs, self.caches, self.store.root, days=days)
        for each in found:
            rule.remove(each)
        return found

    def num_bytes(self) -> int:
        """Return what caches and runs take of the disk; shared files count once."""
        stats = {
            (stat := file.stat()).st_ino: stat.st_size
            for folder in (self.caches, self.runs)
            for file in folder.rglob("*")
            if file.is_file()
        }
        return sum(stats.values())


@pytest.fixture
def home(photos, tmp_path) -> Home:
    """A home with the drawn dishes."""
    return Home(tmp_path, photos)


def test_thirty_nights_take_the_disk_of_a_few(home, monkeypatch):
    """Every second night has news enough; each third model is better. Nothing needed goes."""
    begin_s, sizes = time.time(), []
    for night in range(30):
        now_s = begin_s + night * DAY_S
        monkeypatch.setattr(rule.time, "time", lambda now_s=now_s: now_s)
        if night % 2 == 0:
            home.grow(f"night-{night:03}")
        change = home.change()
        assert (night == 0) != change.known
        before = len(list(home.caches.glob("*")))
        if change.share >= 0.01:
            run = home.train(f"night-{night:03}", when_s=now_s)
            home.weigh(run, release=night % 6 == 0)
        else:
            assert before == len(list(home.caches.glob("*"))), "asked before a cache is built"
        assert 0 == home.change().share
        home.prune()
        sizes.append(home.num_bytes())
    one_night = sizes[0]
    # Every version, and what came within three days, beside the newest.
    assert max(sizes) < 3 * one_night, [f"{size / one_night:.2f}" for size in sizes]
    # Runs tell of themselves for ever; what is heavy stays for versions and the last days alone.
    assert 15 == len(list(home.runs.glob("*/config.json")))
    assert len(list(home.runs.glob("*/checkpoints"))) <= 2 + 2
    version = home.store.serving("food42")
    line = next(e for e in home.store.history("food42") if e.get("version") == version)
    assert (Path(line["run"]) / "checkpoints" / "best.safetensors").is_file()


def test_a_split_that_did_not_change_is_shared(home):
    """A photo came to train: val and test are the older cache's files, under a second name."""
    old = prepare(home.data, 32, cache_root=home.caches).path
    home.grow("new")
    new = prepare(home.data, 32, cache_root=home.caches).path

    def same(split: str) -> bool:
        return (old / f"{split}.npy").samefile(new / f"{split}.npy")

    assert old != new
    assert [False, True, True] == [same(split) for split in ("train", "val", "test")]
    shutil.rmtree(old)
    again = prepare(home.data, 32, cache_root=home.caches)
    assert 6 == len(again.splits["val"].images)


def test_what_somebody_needs_stays(home):
    """Runs under way, runs not weighed yet, the newest cache, and versions that tell no photos."""
    needed = {}
    for name in ("under way", "young", "untold", "old", "newest"):
        home.grow(name)
        when_s = time.time() - {"young": 3, "newest": 2}.get(name, 100) * DAY_S
        run = home.train(name, when_s=when_s, ended=name != "under way")
        needed[name] = Path(json.loads((run / "config.json").read_text())["cache"])
    home.weigh(home.runs / "old", release=True)
    for path in home.runs.glob("old/export/*/photos.json"):
        assert path.is_file()
    untold = manifest_of(needed["untold"])["dataset_hash"]
    onnx = tiny_onnx.build(home.path / "x.onnx", properties={"dataset_hash": untold})
    files = {"release.json": json.dumps({"dataset_hash": untold})}
    home.store.publish("other", onnx, files=files)

    removed = home.prune(days=14)

    exported = home.runs / "old" / "export" / "tonight-0" / "model.onnx"
    assert {needed["old"], exported} == {each.path for each in removed}
    assert (home.runs / "old" / "checkpoints").is_dir(), "a version came from it"
    assert [] == home.prune(days=14)


def test_without_caches_the_gate_still_knows_what_the_champion_learnt(home, trained, tmp_path):
    """The list lies with the version: no photo that it learnt is measured on."""
    about = json.loads((trained / "config.json").read_text())
    manifest = manifest_of(Path(about["cache"]))
    photos = changes.photos_of(manifest) | {"dataset_hash": "f" * 64}
    photos["splits"]["train"]["hashes"][0] = manifest["splits"]["test"]["hashes"][1]
    onnx = tiny_onnx.build(tmp_path / "model.onnx", properties={"dataset_hash": "f" * 64})
    champion = Model(onnx, device="cpu")
    assert 6 == len(held_out(trained, champion).files)

    (tmp_path / "photos.json").write_text(json.dumps(photos))

    found = held_out(trained, champion)
    assert (5, {"the serving model was trained on it": 1}) == (len(found.files), found.left_out)


def test_little_room_is_said_before_the_disk_is_full(home, monkeypatch):
    """Less than two caches' worth is a warning; more is none."""
    assert "" == rule.little_room(home.caches)
    cache = prepare(home.data, 32, cache_root=home.caches).path
    size = sum(file.stat().st_size for file in cache.glob("*.npy"))
    usage = type("Usage", (), {"free": 3 * size})
    monkeypatch.setattr(rule.shutil, "disk_usage", lambda _: usage)
    assert "" == rule.little_room(home.caches)
    usage.free = size
    assert "hansang prune" in rule.little_room(home.caches)
