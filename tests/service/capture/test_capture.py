"""A sample of the photos is kept: bounded, beside its answer, and never in the way of a call."""

import hashlib
import json
import stat
import threading
from time import monotonic

import numpy as np
import pytest

from service.capture import capture as module
from service.capture.capture import Answered, Capture
from service.errors import InvalidArgumentError, OverloadedError, UnavailableError
from service.observability.metrics import Metrics
from service.pb import classifier_pb2 as pb
from storage import StorageError, storage_of


def kept(folder):
    """Return the names of the photos that were kept, without those that are being written."""
    return {path.name for path in folder.rglob("*.jpg")}


def name(photo):
    """Return the name that a photo is kept under."""
    return f"{hashlib.sha256(photo).hexdigest()[:32]}.jpg"


def answered(photo, *probabilities, min_confidence=None):
    """Return an answer to a photo."""
    return Answered(
        image=photo,
        model="food",
        version=1,
        labels=("red", "green", "blue"),
        probabilities=np.array(probabilities, np.float32),
        min_confidence=min_confidence,
    )


@pytest.fixture
def make(tmp_path):
    """Give `make(below=…, rate=…, max_bytes=…)`; they are closed after the test."""
    made = []

    def capture(*, below=0.0, rate=0.0, max_bytes=2**30, place=None):
        place = place or storage_of(tmp_path / "kept")
        made.append(Capture(place, below=below, rate=rate, max_bytes=max_bytes, metrics=Metrics()))
        return made[-1]

    yield capture
    for each in made:
        each.close()


def test_unsure_answers_are_kept_beside_what_was_answered(make, tmp_path, photo):
    """The photo as it came, and a JSON with the likeliest classes; a second time is the same."""
    capture = make(below=0.5)
    unsure, sure = photo("red"), photo("blue")
    for _ in range(2):
        capture.offer(answered(unsure, 0.4, 0.35, 0.25))
    capture.offer(answered(sure, 0.9, 0.1, 0.0))
    capture.close()
    folder = tmp_path / "kept" / "food"
    assert {name(unsure)} == kept(folder)
    assert unsure == (folder / name(unsure)).read_bytes()
    about = json.loads((folder / name(unsure)).with_suffix(".json").read_text())
    assert ("unsure", "food", 1, "") == tuple(
        about[key] for key in ("reason", "model", "version", "label")
    )
    assert ["red", "green", "blue"] == [each["label"] for each in about["classes"]]
    assert 0.4 == pytest.approx(about["classes"][0]["probability"])
    assert 2 == capture._metrics.registry.get_sample_value(
        "hansang_captured_images_total", {"reason": "unsure"}
    )


@pytest.mark.parametrize(
    ("below", "min_confidence", "expected"), [(None, 0.8, 1), (None, None, 0), (0.6, 0.8, 0)]
)
def test_the_models_threshold_says_what_is_unsure(
    make, tmp_path, photo, below, min_confidence, expected
):
    """Unless the operator says something else; where neither does, it is 0.5."""
    capture = make(below=below)
    capture.offer(answered(photo("red"), 0.7, 0.2, 0.1, min_confidence=min_confidence))
    capture.close()
    assert expected == len(kept(tmp_path / "kept"))


def test_a_share_of_the_others_is_kept(make, tmp_path, photo):
    """About the rate, by chance."""
    capture = make(rate=0.2)
    for size in range(200):
        capture.offer(answered(photo("red", size=(16, 10 + size)), 1.0, 0.0, 0.0))
    capture.close()
    assert 15 < len(kept(tmp_path / "kept")) < 70


def test_a_full_place_stops_the_capture_alone(make, tmp_path, photo, monkeypatch):
    """What is there stays below the limit; once somebody takes photos away, it goes on."""
    photos = [photo("red", size=(64, 10 + at)) for at in range(20)]
    capture = make(below=2, max_bytes=5 * len(photos[0]))
    monkeypatch.setattr(module, "_PAUSE_S", 0.2)
    monkeypatch.setattr(module, "_MEASURED_S", 0.0)
    for each in photos:
        capture.offer(answered(each, 1, 0, 0))
    capture._jobs.put(None)
    capture._thread.join()
    size = sum(path.stat().st_size for path in (tmp_path / "kept").rglob("*") if path.is_file())
    assert 2 <= len(kept(tmp_path / "kept")) < 5
    assert size <= 5 * len(photos[0])
    assert capture._metrics.registry.get_sample_value(
        "hansang_uncaptured_images_total", {"reason": "full"}
    )
    with pytest.raises(OverloadedError, match="no room"):
        capture.report(answered(photos[0], 1, 0, 0), "")


class Slow:
    """A place whose writes wait at a gate, or fail."""

    url = "nowhere"

    def __init__(self):
        self.gate = threading.Event()
        self.error = None

    def size(self):
        return 0

    def create(self, name, data):
        self.gate.wait(10)
        if self.error:
            raise self.error
        return True

    write = create


def test_a_slow_place_costs_calls_nothing(make, photo, monkeypatch):
    """While the writer waits, offers return at once, and what does not fit is left out."""
    place = Slow()
    capture = make(below=2, place=place)
    monkeypatch.setattr(module, "MAX_WAITING_BYTES", 10 * len(photo("red")))
    start_s = monotonic()
    for _ in range(50):
        capture.offer(answered(photo("red"), 1, 0, 0))
    assert monotonic() - start_s < 1
    assert 40 == capture._metrics.registry.get_sample_value(
        "hansang_uncaptured_images_total", {"reason": "busy"}
    )
    place.gate.set()


def test_a_place_that_fails_pauses_the_capture(make, photo, caplog):
    """It is said once; who reports a mistake is told."""
    place = Slow()
    place.gate.set()
    place.error = StorageError("no space left on the device")
    capture = make(below=2, place=place)
    first = capture.report(answered(photo("red"), 1, 0, 0), "blue")
    with pytest.raises(UnavailableError, match="no space left"):
        first.result(10)
    with pytest.raises(UnavailableError, match="cannot be kept now"):
        capture.report(answered(photo("red"), 1, 0, 0), "blue")
    assert 1 == len([each for each in caplog.records if "capture pauses" in each.message])


async def test_a_server_keeps_a_sample(publish, serve, connect, photo, tmp_path, eventually):
    """Over gRPC: broken images are left out, and the folder is for its owner alone."""
    publish("food", weights=[[0.0] * 3] * 3)
    server = await serve(capture=str(tmp_path / "kept"), capture_rate=0.0)
    classifier = connect(server.port)
    assert (await classifier.GetModel(pb.GetModelRequest())).takes_reports
    await classifier.Classify(pb.ClassifyRequest(images=[photo("red"), b"junk", photo("blue")]))
    await eventually(lambda: len(kept(tmp_path / "kept")) == 2)
    assert {name(photo("red")), name(photo("blue"))} == kept(tmp_path / "kept")
    assert 0o700 == stat.S_IMODE((tmp_path / "kept").stat().st_mode)


async def test_a_place_that_cannot_be_written_is_found_at_the_start(publish, serve, tmp_path):
    """A file where the folder should be."""
    publish("food")
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidArgumentError, match=r"--capture .*file"):
        await serve(capture=str(tmp_path / "file"))


def test_a_bucket_keeps_them_as_well(bucket, make, photo):
    """`s3://…`: the photo and its answer, once; what lies there counts."""
    place = storage_of("s3://bucket/kept")
    capture = make(below=0.5, place=place)
    for _ in range(2):
        capture.offer(answered(photo("red"), 0.4, 0.35, 0.25))
    capture.close()
    names = [f"food/{name(photo('red'))}", f"food/{name(photo('red'))[:-4]}.json"]
    assert sorted(names) == place.names()
    assert photo("red") == place.read(names[0])
    assert place.size() == sum(len(place.read(each)) for each in names)
