"""A review finds planted faults, goes on after a stop, and writes whole files or none."""

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.thin import thin_network
from training.config import AugmentConfig, OptimizerConfig, TrainConfig
from training.data.prepare import prepare
from training.datasheet.inspection import inspect
from training.errors import StoppedError
from training.review.folds import everything
from training.review.out_of_fold import train_folds
from training.review.review import review

pytestmark = pytest.mark.usefixtures("thin")

CONFIG = TrainConfig(
    image_size=32, epochs=8, batch_size=8, threads=1,
    optimizer=OptimizerConfig(name="adamw", lr=1e-3),
    augment=AugmentConfig(crop_area=0.8, brightness=0, contrast=0, saturation=0),
)  # fmt: skip
FOLDS = 3
NUM_FLIPPED = 6
COLOURS = {"계란찜": (230, 190, 60), "깍두기": (200, 50, 40), "시금치": (40, 120, 50)}


def draw(data: Path) -> None:
    """Draw 24 photos of each class: its colour, unevenly lit, with grains of all kinds."""
    rng = np.random.default_rng(0)
    for label, colour in COLOURS.items():
        for number in range(24):
            grains = rng.normal(0, 40, (48, 48, 3)) + rng.normal(0, 10, 3)
            place = data / ("val" if number % 5 == 0 else "train") / label
            place.mkdir(parents=True, exist_ok=True)
            pixels = np.clip(np.array(colour) * rng.uniform(0.8, 1.1) + grains, 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(place / f"{number}.jpg", quality=90)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Photos of three classes with six under a wrong label, a black one, a strip, and a copy."""
    root = tmp_path_factory.mktemp("planted")
    data = root / "photos"
    draw(data)
    rng = random.Random(0)
    labels = sorted(COLOURS)
    flipped = {}
    for photo in rng.sample(sorted(data.glob("train/*/*.jpg")), NUM_FLIPPED):
        label = rng.choice([other for other in labels if other != photo.parent.name])
        moved = photo.rename(data / "train" / label / f"moved-{photo.name}")
        flipped[moved.relative_to(data).as_posix()] = photo.parent.name
    Image.new("RGB", (64, 64), (4, 4, 4)).save(data / "train" / labels[0] / "black.jpg")
    Image.effect_noise((400, 80), 60).convert("RGB").save(data / "train" / labels[1] / "strip.jpg")
    copied = data / "train" / labels[2] / "19.jpg"
    shutil.copyfile(copied, data / "val" / labels[2] / "copy.jpg")
    cache = prepare(data, CONFIG.image_size, cache_root=root / "cache")
    photos, splits = everything(cache)
    with thin_network():
        answers = train_folds(cache, photos, CONFIG, root / "runs", folds=FOLDS, device="cpu")
        found = review(data, cache, photos, splits, answers, inspect(data))
    return data, cache, flipped, answers, found


def test_planted_labels_come_first(planted):
    """Flipped labels rank far above chance, and the right class is suggested for most of them."""
    _, _, flipped, _, found = planted
    ranked = [one for one in found.suspects if one.kind == "label"]

    first = ranked[:NUM_FLIPPED]
    hits = sum(one.photo in flipped for one in first)
    suggested = [one for one in ranked if one.photo in flipped]

    assert hits >= NUM_FLIPPED / 2, [(one.photo, one.score) for one in first]
    assert sum(one.suggested == flipped[one.photo] for one in suggested) >= NUM_FLIPPED / 2
    assert sorted(found.suspects, key=lambda one: -one.score) == found.suspects
    assert all(0 < one.score <= 1 for one in found.suspects)


def test_faults_of_photos_are_named(planted):
    """The black one is dark, the strip has an odd aspect, the copy across splits is one entry."""
    _, _, _, _, found = planted
    kinds = {}
    for one in found.suspects:
        kinds.setdefault(one.kind, []).append(one)

    assert ["black.jpg"] == [Path(one.photo).name for one in kinds["dark"]]
    assert ["strip.jpg"] == [Path(one.photo).name for one in kinds["odd_aspect"]]
    (copies,) = kinds["near_copy"]
    assert "one of 2 photos of one picture, in several splits" == copies.note
    assert found.suspects[0].kind == "label"


def test_every_photo_is_judged_by_a_run_that_did_not_learn_it(planted):
    """Each photo has one label entry, with neighbours that are other photos, and probabilities.

    None has a photo whose score is 0, as it is written: which ones are that depends on the CPU.
    """
    data, cache, _, answers, found = planted
    photos, _ = everything(cache)

    judged = [one.photo for one in found.suspects if one.kind == "label"]

    own = answers.probabilities[np.arange(len(photos.files)), photos.targets]
    share = dict(zip(photos.files, own, strict=True))
    assert len(set(judged)) == len(judged)
    assert all(share[photo] > 1 - 1e-5 for photo in set(photos.files) - set(judged))
    assert np.allclose(1, answers.probabilities.sum(1), atol=1e-4)
    for one in found.suspects:
        assert (data / one.photo).is_file()
        assert one.photo not in one.neighbours
        assert 3 == len(one.likeliest)
        assert 1 == pytest.approx(sum(share for _, share in one.likeliest), abs=0.01)
        assert all(0 <= place <= 1 for place in one.xy)
        # 32 px are one cell, read at two shifts a side.
        assert 4 == len(one.heat)
        assert set(one.heat) <= set("0123456789")


def test_a_stopped_review_goes_on_to_the_same_answers(planted, tmp_path):
    """Stopped in its last fold, the same call trains the rest of that, and ends with the same bits.

    The folds that are finished are not trained again.
    """
    data, cache, _, answers, _ = planted
    photos, _ = everything(cache)
    runs = tmp_path / "runs"
    shutil.copytree(data.parent / "runs", runs)
    shutil.rmtree(runs / "fold-3-of-3")
    finished = [(run / "result.json").stat().st_mtime_ns for run in sorted(runs.iterdir())]
    asked = iter(range(10**6))

    def go(should_stop):
        return train_folds(
            cache, photos, CONFIG, runs, folds=FOLDS, device="cpu", should_stop=should_stop
        )

    with pytest.raises(StoppedError, match="the same command goes on"):
        go(lambda: next(asked) > 5)
    assert not (runs / "fold-3-of-3" / "result.json").exists()

    assert np.array_equal(answers.probabilities, go(lambda: False).probabilities)
    assert finished == [
        (run / "result.json").stat().st_mtime_ns for run in sorted(runs.iterdir())[:2]
    ]


def test_the_verb_writes_the_list_and_the_page(planted, tmp_path, monkeypatch):
    """A first guess from a run trains nothing; both files are there, and say the same."""
    from hansang import app

    data, _, flipped, _, _ = planted
    run_dir = data.parent / "runs" / "fold-1-of-3"
    monkeypatch.chdir(tmp_path)

    ended = CliRunner().invoke(
        app, ["review", str(data), "--from", str(run_dir), "--folds", "3", "--json"]
    )

    assert 0 == ended.exit_code, ended.output
    told = json.loads(ended.stdout)
    listed = json.loads(Path("photos-review/review.json").read_text("utf-8"))
    assert told["photos"] == len({one["photo"] for one in listed["suspects"]})
    assert not Path("runs").exists()
    assert flipped.keys() <= {one["photo"] for one in listed["suspects"]}
    assert {"review.html", "review.json"} == {path.name for path in Path("photos-review").iterdir()}

    # Whoever reviews again learns what is new: here one that the review before did not know.
    assert told["new_doubtful_labels"] is None
    assert [[one["label"], *map(len, one["halves"])] for one in listed["halved"]] == told["halved"]
    doubted = [one for one in listed["suspects"] if one["doubtful"]]
    assert told["doubtful_labels"] == len(doubted) >= len(flipped) / 2
    listed["suspects"].remove(doubted[0])
    Path("photos-review/review.json").write_text(json.dumps(listed), "utf-8")
    again = CliRunner().invoke(
        app, ["review", str(data), "--from", str(run_dir), "--folds", "3", "--json"]
    )
    assert 0 == again.exit_code, again.output
    assert 1 == json.loads(again.stdout)["new_doubtful_labels"]


def test_a_folder_that_cannot_be_written_is_refused_first(planted, tmp_path):
    """Nothing is trained for an answer that could not be kept."""
    from hansang import app

    place = tmp_path / "file"
    place.touch()

    ended = CliRunner().invoke(app, ["review", str(planted[0]), "--out", str(place / "below")])

    assert ended.exit_code
    assert "--out" in str(ended.exception)
