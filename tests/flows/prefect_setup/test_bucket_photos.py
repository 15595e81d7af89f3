"""Nights on photos in a bucket: a real server, worker and store, by `make test-prefect`."""

import io
import json
import os

import pytest
from PIL import Image

from tests.flows.rig import Rig

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not os.environ.get("HANSANG_TEST_PREFECT"),
        reason="minutes of servers and workers: make test-prefect runs it",
    ),
]


@pytest.fixture
def rig(bucket, tmp_path):
    """A server with Hansang's deployments on `s3://bucket/photos`, and a worker that trains."""
    rig = Rig(tmp_path, HANSANG_WORK=str(tmp_path / "work"))
    rig.start_server()
    rig.deploy(more="data='s3://bucket/photos'")
    rig.start_worker()
    yield rig
    rig.close()


def test_each_night_fetches_what_is_new_in_the_bucket_and_no_more(rig, bucket, photos, tmp_path):
    """First all is trained on and released; then one photo is fetched; then nothing has changed."""
    bucket.put(str(photos), "bucket/photos", recursive=True)
    places = {name: str(tmp_path / each) for name, each in
              (("runs_dir", "runs"), ("cache_dir", "cache"), ("repository", "models"))}  # fmt: skip
    training = {"epochs": 1, "image_size": 32, "device": "cpu",
                "overrides": {"batch_size": "16", "threads": "1"}}  # fmt: skip

    def night(name: str) -> dict:
        run = rig.start_run("pipeline/pipeline", {
            "run_id": name, "training": training, "places": places,
            "nightly": {"strict": True, "min_changed": 0.001},
        })  # fmt: skip
        rig.until(lambda: rig.state(run)["type"] in ("COMPLETED", "FAILED"), within_s=400)
        return rig.state(run)

    state = night("first")
    assert "Released" == state["name"], state
    (copy,) = (tmp_path / "work" / ".photos").glob("photos-*/photos")
    there = sorted(path.relative_to(photos) for path in photos.rglob("*.jpg"))
    assert there == sorted(path.relative_to(copy) for path in copy.rglob("*.jpg"))
    assert "Unchanged" == night("nothing-new")["name"]

    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 90).convert("RGB").save(buffer, "JPEG")
    name = next(path for path in there if path.parts[0] == "train").with_name("new.jpg")
    bucket.pipe_file(f"bucket/photos/{name}", buffer.getvalue())
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*.jpg")}
    state = night("second")

    assert state["name"] in ("Released", "Kept"), state
    after = {path: path.stat().st_mtime_ns for path in copy.rglob("*.jpg")}
    assert before == {path: time for path, time in after.items() if path != copy / name}
    assert buffer.getvalue() == (copy / name).read_bytes()
    first, second = (
        json.loads((tmp_path / "runs" / night / "config.json").read_text())["dataset_hash"]
        for night in ("first", "second")
    )
    assert first != second
