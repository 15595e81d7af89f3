"""Captured photos come in the order of what they would teach, from a folder or a bucket."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.errors import DataError
from training.review import captured as module
from training.review.captured import captured


def picture(path, number, size=(96, 96)):
    """Draw a picture of its own for each number."""
    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
    coarse.resize(size, Image.Resampling.BICUBIC).save(path, "JPEG", quality=90)
    return path.read_bytes()


@pytest.fixture
def data(tmp_path):
    """Sixteen photos of egg, four of rice."""
    for label, count in (("egg", 16), ("rice", 4)):
        (tmp_path / "photos" / "train" / label).mkdir(parents=True)
        for number in range(count):
            picture(tmp_path / "photos" / "train" / label / f"{number}.jpg", number + len(label))
    return tmp_path / "photos"


@pytest.fixture
def keep(tmp_path):
    """Give `keep(photo, egg=0.5, rice=0.4)`: what the service writes of a photo and its answer."""

    def write(photo, *, reason="unsure", label="", **shares):
        name = tmp_path / "captured" / "food42" / hashlib.sha256(photo).hexdigest()[:32]
        name.parent.mkdir(parents=True, exist_ok=True)
        name.with_suffix(".jpg").write_bytes(photo)
        classes = [{"label": each, "probability": share} for each, share in shares.items()]
        about = {"reason": reason, "label": label, "model": "food42", "classes": classes}
        name.with_suffix(".json").write_text(json.dumps(about))
        return str(name.with_suffix(".jpg"))

    return write


def test_what_would_teach_most_comes_first(data, keep, tmp_path):
    """A small margin before a large one, a rare class before a common one, a report before both."""
    photos = [picture(tmp_path / "drawn.jpg", 100 + at) for at in range(5)]
    sure = keep(photos[0], reason="random", egg=0.9, rice=0.1)
    common = keep(photos[1], egg=0.4, rice=0.35)
    rare = keep(photos[2], rice=0.4, egg=0.35)
    wrong = keep(photos[3], reason="mistake", label="rice", egg=0.99, rice=0.01)
    new = keep(photos[4], soup=0.5, egg=0.3)

    found = captured(data, tmp_path / "captured", tmp_path / "out")

    assert [wrong, rare, new, common, sure] == [one.photo for one in found.suspects]
    first, second = found.suspects[:2]
    assert (1.0, "mistake", "egg", "rice") == (
        first.score, first.kind, first.label, first.suggested
    )  # fmt: skip
    assert "A caller reported it as rice." == first.note
    # 4 photos of rice against 16 of egg: the same margin is worth half.
    assert 0.95 == pytest.approx(second.score)
    assert 0.475 == pytest.approx(found.suspects[3].score)
    assert ("egg", "rice") == found.classes


def test_copies_of_one_picture_are_kept_down(data, keep, tmp_path):
    """The second copy is worth half, the third a third; each names the others."""
    drawn = Image.open(data / "train" / "egg" / "0.jpg").transpose(Image.Transpose.ROTATE_90)
    copies = []
    for quality in (95, 80, 65):
        drawn.save(tmp_path / "copy.jpg", quality=quality)
        copies.append((tmp_path / "copy.jpg").read_bytes())
    paths = {keep(copy, rice=0.5, egg=0.5) for copy in copies}
    other = keep(picture(tmp_path / "drawn.jpg", 200), rice=0.7, egg=0.3)

    found = captured(data, tmp_path / "captured", tmp_path / "out").suspects

    assert [1.0, 0.6, 0.5, 0.333333] == [one.score for one in found]
    assert other == found[1].photo
    assert "One of 3 photos of one picture." == found[0].note
    assert {found[0].photo, *found[0].neighbours} == paths


def test_what_cannot_be_judged_is_counted(data, keep, tmp_path, monkeypatch):
    """Photos of the data, broken ones, those without a sound answer, and more than a page holds."""
    keep((data / "train" / "egg" / "3.jpg").read_bytes(), egg=0.4, rice=0.3)
    keep(b"no photo", egg=0.4, rice=0.3)
    without = keep(picture(tmp_path / "drawn.jpg", 300), egg=0.4)
    (tmp_path / "captured" / "food42" / "lone.jpg").write_bytes(b"")
    Path(without).with_suffix(".json").write_text(
        '{"reason": "unsure", "label": "", "classes": [{"label": "egg"}]}'
    )

    found = captured(data, tmp_path / "captured", tmp_path / "out")
    for number in range(3):
        keep(picture(tmp_path / "drawn.jpg", 400 + number), rice=0.4, egg=0.4)
    monkeypatch.setattr(module, "MOST", 2)
    two = captured(data, tmp_path / "captured", tmp_path / "out")

    assert (0, 1, 3) == (len(found.suspects), found.known, found.unread)
    assert (2, 3) == (len(two.suspects), two.left)


def test_a_place_without_photos_says_how_they_come_there(data, tmp_path):
    """The message names the place and the option."""
    with pytest.raises(DataError, match=r"hansang serve --capture \S+nowhere"):
        captured(data, tmp_path / "nowhere", tmp_path / "out")


def test_photos_of_a_bucket_are_copied_beside_the_page(data, keep, tmp_path, bucket):
    """Only photos with an answer are fetched; one whose name leads out of the folder is none."""
    local = Path(keep(picture(tmp_path / "drawn.jpg", 500), egg=0.4, rice=0.3))
    for path in (local, local.with_suffix(".json")):
        bucket.pipe(f"bucket/kept/food42/{path.name}", path.read_bytes())
    bucket.pipe("bucket/kept/food42/../../up.jpg", b"photo")

    found = captured(data, "s3://bucket/kept", tmp_path / "out")

    (one,) = found.suspects
    assert str(tmp_path / "out" / "photos" / "food42" / local.name) == one.photo
    assert local.read_bytes() == Path(one.photo).read_bytes()
    assert "s3://bucket/kept" == found.to_dict()["place"]
