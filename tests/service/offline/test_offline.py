"""Offline classification: on real clusters of several processes, some of which are killed."""

import asyncio
import json
import os
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import pytest

from photo_folder.names import kind_of
from service.client.client import Classifier
from service.models.working_copy import working_copy
from service.offline import plan as plans
from service.offline import run, worker
from service.offline.engines import Place
from service.offline.plan import Wish
from service.offline.worker import Job
from storage import Folder, StorageError, storage_of
from tests.service.offline.jobs import answers


def plan_for(photos: Path, out: Path, **wish: int) -> Job:
    """Plan parts of 16 photos and a job for the model "food"."""
    asked = Wish(photos=(str(photos),), model="food", version=1, **{"top_k": 2, **wish})
    plan = plans.make(Folder(out), asked, 16)
    return Job(plan=plan, out=str(out), repository=str(out.parent / "models"), device="cpu")


def test_a_write_that_is_cut_short_leaves_nothing_among_the_answers(tmp_path, monkeypatch):
    """Not even a file that hides: whoever reads the folder reads all of it."""
    folder = Folder(tmp_path / "out")
    folder.write("answers/000000.jsonl", b"whole")

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("storage.folder.sync", killed)
    for write in (folder.write, folder.create):
        with pytest.raises(KeyboardInterrupt):
            write("answers/000001.jsonl", b"ha")

    assert ["000000.jsonl"] == [each.name for each in (tmp_path / "out" / "answers").iterdir()]
    assert ["answers/000000.jsonl"] == folder.names()


async def test_answers_are_the_servers(photos, publish, serve, tmp_path):
    """Same pixels, same probabilities, same sentence for a photo that is none."""
    publish()
    (photos / "night" / "broken.jpg").write_bytes(b"no photo")
    (photos / "night" / "cut.jpg").write_bytes((photos / "낮" / "00-red.jpeg").read_bytes()[:200])
    job = plan_for(photos, tmp_path / "out")
    server = await serve(max_batch=32)

    def ask():
        done = [worker.answer(job, part) for part in range(job.plan.num_parts)]
        offline = answers(tmp_path / "out")
        with Classifier(f"127.0.0.1:{server.port}") as client:
            served = client.classify([Path(line["photo"]).read_bytes() for line in offline], 2)
        return done, offline, served

    done, offline, served = await asyncio.to_thread(ask)
    assert (62, 2) == (sum(each.photos for each in done), sum(each.failed for each in done))
    assert [16, 16, 16, 14] == [each.photos for each in done]
    for line, result in zip(offline, served, strict=True):
        assert line["error"] == result.error
        assert (line["model"], line["model_version"]) == ("food", 1)
        assert line["classes"] == [
            {"label": found.label, "probability": pytest.approx(found.probability, abs=1e-6)}
            for found in result.classes
        ]


def test_failed_photos_alone_are_tried_again(photos, publish, tmp_path):
    """What could not be read is listed; the same part again asks for nothing else."""
    publish()
    job = plan_for(photos, tmp_path / "out")
    listed = plans.photos_of(Folder(tmp_path / "out"), job.plan, 0)
    gone = Path(listed[3].name)
    kept = gone.read_bytes()
    gone.unlink()
    assert (16, 1, 16) == worker.answer(job, 0)
    failed = tmp_path / "out" / "failed" / "000000.tsv"
    assert f"{gone}\tcannot be read: No such file or directory\n" == failed.read_text("utf-8")
    assert (16, 1, 1) == worker.answer(job, 0)
    gone.write_bytes(kept)
    assert (16, 0, 1) == worker.answer(job, 0)
    assert not failed.exists()
    assert (16, 0, 0) == worker.answer(job, 0)
    lines = answers(tmp_path / "out")
    assert [photo.name for photo in listed] == [line["photo"] for line in lines]
    assert all(line["error"] is None for line in lines)


def test_plan_holds_whatever_comes_later(photos, photo, tmp_path):
    """Each photo once, though named twice; of two plans one holds; new photos change no part."""
    out = Folder(tmp_path / "out")
    for name in ("photos-1/soup.jpg", "parts/soup.jsonl", "parts/0123456789ab/000000.jsonl"):
        out.write(name, b"there before")
    some = photos / "night"
    one = next((some / "late").iterdir())
    wish = Wish(photos=(str(some), str(one), str(photos)), model="food", version=1, top_k=5)
    plan = plans.make(out, wish, 7)
    assert (60, 9) == (plan.num_photos, plan.num_parts)
    names = [each.name for part in range(9) for each in plans.photos_of(out, plan, part)]
    assert 60 == len(set(names)) == len(names)
    (some / "00-new.jpg").write_bytes(photo("red"))
    assert plan == plans.make(out, wish, 3)
    assert plan == plans.read(out)
    lists = [name for name in out.names("parts") if plan.name in name]
    assert 9 == len(lists)
    assert ["parts/soup.jsonl", "photos-1/soup.jpg", "plan.json"] == sorted(
        {*out.names()} - {*lists}
    )


def test_name_that_is_no_unicode_is_answered(publish, photo, tmp_path):
    """A byte in a name that is no UTF-8 is written as JSON escapes it, and read back."""
    publish()
    home = tmp_path / "odd"
    home.mkdir()
    names = [os.fsencode(home) + b"/\xff\xfe.jpg", str(home / "line\u2028break.jpg").encode()]
    for name in names:
        Path(os.fsdecode(name)).write_bytes(photo("red"))
    job = plan_for(home, tmp_path / "out")
    for _ in range(2):
        assert 2 == worker.answer(job, 0).photos
        lines = (tmp_path / "out" / "answers" / "000000.jsonl").read_text("utf-8").split("\n")[:-1]
        assert {os.fsencode(json.loads(line)["photo"]) for line in lines} == set(names)


def test_storage_creates_once(tmp_path):
    """The second one is refused and what is there stays; errors name the file."""
    out = storage_of(tmp_path / "place")
    assert out.create("a/b", b"first")
    assert not out.create("a/b", b"second")
    assert b"first" == out.read("a/b")
    assert ["a/b"] == out.names()
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file/x"):
        storage_of(tmp_path / "file").write("x", b"")


class Here:
    """An engine of one worker, this process: what is in a bucket asks for no cluster."""

    def run(self, work, parts):
        for part in parts:
            yield part, work(part)


def test_photos_models_and_answers_in_a_bucket(
    photos, publish, bucket, network, tmp_path, monkeypatch
):
    """Everything lies in a bucket whose network fails a fifth of the time; nothing is lost."""
    monkeypatch.setattr(run, "engine", lambda *_: nullcontext(Here()))
    with working_copy(Path("s3://bucket/models")) as folder:
        publish(repository=folder)
        publish(repository=folder)
    bucket.put(str(photos), "bucket/photos", recursive=True)
    bucket.pipe_file("bucket/photos-2/no.jpg", b"another folder")
    bucket.pipe_file("bucket/photos/empty.jpg", b"")

    def go():
        return run.classify(
            ["s3://bucket/photos"], "s3://bucket/answers", kind="dask", place=Place(),
            repository=Path("s3://bucket/models"), part_size=16, device="cpu",
        )  # fmt: skip

    with network.used():
        network.bad = 0.2
        summary = go()
    assert (61, 60, 1, 0) == (
        summary.photos, summary.classified, summary.failed, summary.unfinished
    )  # fmt: skip
    assert network.hit > 3
    out = storage_of("s3://bucket/answers")
    told = b"".join(out.read(name) for name in out.names("answers")).decode()
    lines = [json.loads(line) for line in told.splitlines()]
    keys = (key for key in bucket.find("bucket/photos") if kind_of(key.rsplit("/", 1)[1]) is None)
    assert dict.fromkeys((f"s3://{key}" for key in keys), 1) == Counter(
        line["photo"] for line in lines
    )
    for line in lines:
        assert (line["model"], line["model_version"]) == ("food", 2)
        if line["error"] is None:
            assert line["classes"][0]["label"] == Path(line["photo"]).stem[3:]
    (failed,) = (out.read(name) for name in out.names("failed"))
    assert b"s3://bucket/photos/empty.jpg\tthe image is empty (0 bytes)\n" == failed
    bucket.pipe_file("bucket/photos/empty.jpg", (photos / "낮" / "00-red.jpeg").read_bytes())
    assert 61 == go().classified
    assert not out.names("failed")
