"""Photos that are added, changed and removed while a run is under way: it goes on with its own."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from tests.thin import thin_network
from tests.training.runs.runs import weights
from training.cli import train as verb
from training.data.begun import photos_to_go_on_with, since
from training.data.cache import DatasetCache
from training.data.dataset import scan
from training.data.prepare import prepare
from training.errors import DataError, RunError, StoppedError

pytestmark = pytest.mark.usefixtures("thin")

SETTINGS = ["batch_size=12", "checkpoint_every_steps=2", "augment.flip=0.5"]


class Stop:
    """A run's answer to whether it was asked to stop: yes, the n-th time."""

    def __init__(self, after: int) -> None:
        self.left = after

    def is_set(self) -> bool:
        self.left -= 1
        return self.left < 0


@pytest.fixture
def go(tmp_path, monkeypatch):
    """`go(photos, home, stop=3)` trains, or goes on, by the verb; without the report."""
    monkeypatch.setattr("training.reports.tracking.reported", lambda _run_dir: "")

    def train(photos: Path, home: Path, stop: int = 10**6, **options) -> Path:
        monkeypatch.setattr(verb, "stop_on_signals", lambda: Stop(stop))
        verb.train(
            photos, run="r", epochs=2, image_size=32, setting=SETTINGS,
            **{"threads": 1, "runs_dir": home / "runs", "cache_dir": home / "cache", **options},
        )  # fmt: skip
        return home / "runs" / "r"

    return train


@pytest.fixture(scope="module")
def alone(dishes, tmp_path_factory):
    """The newest checkpoint of a run whose photos nobody touched."""
    home = tmp_path_factory.mktemp("alone")
    cache = prepare(dishes, 32, cache_root=home / "cache")
    from terminal import settings
    from training.loop.trainer import train
    from training.recipes import recipe

    config = recipe("scratch").with_overrides(
        {"epochs": 2, "image_size": 32, "threads": 1, **settings(SETTINGS)}
    )
    with thin_network():
        train(config, cache, home / "r", device="cpu")
    return weights(home / "r")


def add(photos: Path) -> None:
    """Add a class of one photo each to train and val."""
    (photos / "train" / "new").mkdir()
    (photos / "val" / "new").mkdir()
    first = next((photos / "train").glob("*/*"))
    for split in ("train", "val"):
        shutil.copy(first, photos / split / "new" / f"more{first.suffix}")


def change(photos: Path) -> None:
    """Give a photo the content of another."""
    first, second = sorted((photos / "train").glob("*/*"))[:2]
    shutil.copy(first, second)


def remove(photos: Path) -> None:
    """Remove three photos."""
    for path in sorted((photos / "train").glob("*/*"))[:3]:
        path.unlink()


def remove_a_class(photos: Path) -> None:
    """Leave a class without photos to validate on."""
    shutil.rmtree(sorted((photos / "val").iterdir())[0])


def remove_all(photos: Path) -> None:
    """Empty the folder."""
    shutil.rmtree(photos)
    photos.mkdir()


CHANGES = {
    add: "2 added, 0 gone, 0 other",
    change: "0 added, 0 gone, 1 other",
    remove: "0 added, 3 gone, 0 other",
    remove_a_class: "cannot be trained on .*missing from val",
    remove_all: "cannot be trained on",
}
# Questions whether to stop: 4 steps and a validation an epoch, then the result on val and test.
STAGES = {"first step": 0, "an epoch": 2, "validation": 4, "second epoch": 6, "result": 10}


@pytest.mark.parametrize(
    ("what", "stage"),
    [
        # Each change and each stage by day; the other pairs by night.
        (add, "first step"), (remove_all, "an epoch"), (remove, "validation"),
        (remove_a_class, "second epoch"), (change, "result"),
        *(pytest.param(what, stage, marks=pytest.mark.long) for what, stage in (
            (add, "an epoch"), (add, "validation"), (add, "second epoch"), (add, "result"),
            (change, "an epoch"), (remove, "first step"), (remove_all, "result"),
        )),
    ],
)  # fmt: skip
def test_a_run_goes_on_with_the_photos_that_it_began_with(
    go, dishes, alone, tmp_path, capsys, what, stage
):
    """Whatever became of the folder, and when: it ends with the same weights, and says so."""
    photos = tmp_path / "photos"
    shutil.copytree(dishes, photos)
    with pytest.raises(StoppedError):
        go(photos, tmp_path, stop=STAGES[stage])
    what(photos)
    capsys.readouterr()

    found = weights(go(photos, tmp_path))

    assert re.search(CHANGES[what], capsys.readouterr().err.replace("\n", " "))
    assert alone.keys() == found.keys()
    assert all(torch.equal(alone[name], found[name]) for name in alone)
    assert 1 == len([path for path in (tmp_path / "cache").iterdir() if path.is_dir()])


def test_a_run_that_was_killed_before_its_first_step_keeps_its_photos(
    go, dishes, alone, tmp_path, monkeypatch
):
    """From the moment on at which the run has settings, it has its photos."""
    photos = tmp_path / "photos"
    shutil.copytree(dishes, photos)

    def killed(_run) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("training.loop.run.Run.resume", killed)
        with pytest.raises(KeyboardInterrupt):
            go(photos, tmp_path)
    add(photos)

    found = weights(go(photos, tmp_path))

    assert all(torch.equal(alone[name], found[name]) for name in alone)


def test_further_seeds_learn_from_the_photos_of_the_first(go, dishes, tmp_path):
    """Photos that come between two seeds wait until all seeds are done."""
    photos = tmp_path / "photos"
    shutil.copytree(dishes, photos)
    with pytest.raises(StoppedError):
        go(photos, tmp_path, stop=2, seeds=2)
    add(photos)

    go(photos, tmp_path, seeds=2)

    abouts = [json.loads((tmp_path / f"runs/r-seed{n}/config.json").read_text()) for n in (0, 1)]
    assert abouts[0]["dataset_hash"] == abouts[1]["dataset_hash"]


def test_a_cache_that_is_gone_is_made_again_of_the_same_photos_alone(go, dishes, tmp_path):
    """With the photos as they were the run goes on; with others it says that its cache is gone."""
    photos = tmp_path / "photos"
    shutil.copytree(dishes, photos)
    with pytest.raises(StoppedError):
        go(photos, tmp_path, stop=2)
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(StoppedError):
        go(photos, tmp_path, stop=2)
    shutil.rmtree(tmp_path / "cache")
    change(photos)

    with pytest.raises(DataError, match=r"the cache .* is gone, and photos have changed since"):
        go(photos, tmp_path)
    remove_all(photos)
    with pytest.raises(DataError, match=r"the cache .* is gone, and "):
        go(photos, tmp_path)


def test_another_folder_is_another_run(go, dishes, folder, tmp_path):
    """A folder that shares no photo with the run's is no later look at it, and is refused."""
    with pytest.raises(StoppedError):
        go(dishes, tmp_path, stop=2)

    with pytest.raises(RunError, match="is another run: dataset_hash"):
        go(folder({"train/a": 12, "train/b": 12, "val/a": 1, "val/b": 1}), tmp_path)


def test_splits_that_are_drawn_anew_are_no_changes(dishes, tmp_path):
    """One photo more among class folders is one added, however the drawn splits shift."""
    photos = tmp_path / "classes"
    for path in sorted((dishes / "train").glob("*/*")):
        (photos / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, photos / path.parent.name / path.name)
    cache = prepare(photos, 32, cache_root=tmp_path / "cache")
    assert not since(cache, scan(photos), 32)
    one = next(photos.glob("*/*"))
    shutil.copy(one, one.with_name(f"more{one.suffix}"))

    assert "1 added, 0 gone, 0 other" == str(since(cache, scan(photos), 32))


def test_a_cache_that_moved_is_found_by_its_name(dishes, tmp_path):
    """A run that another machine began goes on from the cache of the same name here."""
    cache = prepare(dishes, 32, cache_root=tmp_path / "cache")
    begun = {"cache": f"/elsewhere/{cache.path.name}", "dataset_hash": cache.dataset_hash}

    found, said = photos_to_go_on_with(
        begun, DataError("no photos"), 32, cache_root=tmp_path / "cache"
    )

    assert cache.path == found.path
    assert "no photos" in said
    assert isinstance(found, DatasetCache)
