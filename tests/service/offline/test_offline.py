"""Offline classification: on real clusters of several processes, some of which are killed."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import pytest

from service.client.client import Classifier
from service.models.bucket import working_copy
from service.offline import plan as plans
from service.offline import run, worker
from service.offline.engines import Place
from service.offline.photos import is_photo
from service.offline.plan import Wish
from service.offline.worker import Job
from storage import Folder, StorageError, storage_of
from tests.paths import ROOT

LOOPS = 40_000
"""A part takes long enough to be killed in."""
COLOURS = ("red", "green", "blue")


@pytest.fixture
def photos(tmp_path, photo) -> Path:
    """Give a folder of 60 photos in two folders, of every format, and of what is no photo."""
    home = tmp_path / "photos"
    for number in range(60):
        colour = COLOURS[number % 3]
        kind = ("JPEG", "PNG", "WEBP")[number % 7 % 3]
        path = home / "낮" / f"{number:02d}-{colour}.{kind.lower()}"
        if number % 2:
            path = home / "night" / "late" / path.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo(colour, size=(20 + number, 16), kind=kind))
    (home / "notes.txt").write_text("no photo")
    (home / "._hidden.jpg").write_bytes(b"no photo")
    return home


def begin(*arguments: object, **environment: str) -> subprocess.Popen:
    """Start `hansang classify` in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "hansang", "classify", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "HANSANG_PROGRESS_S": "0.1", **environment},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def end(process: subprocess.Popen, code: int = 0) -> tuple[str, str]:
    """Wait for it; return what it said."""
    out, err = process.communicate(timeout=280)
    assert code == process.returncode, err
    return out, err


def answers(out: Path) -> list[dict]:
    """Return every line of every part, in order."""
    files = sorted((out / "answers").iterdir())
    return [json.loads(line) for file in files for line in file.read_text("utf-8").splitlines()]


def require_one_answer_each(out: Path, photos: Path) -> None:
    """Fail unless every photo has one answer, and the right one."""
    found = answers(out)
    wanted = {str(path) for path in photos.rglob("*") if path.name[:2].isdigit()}
    assert dict.fromkeys(wanted, 1) == Counter(line["photo"] for line in found)
    for line in found:
        assert line["error"] is None
        assert line["classes"][0]["label"] == Path(line["photo"]).stem[3:]


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

    monkeypatch.setattr("storage.sync", killed)
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


def test_options_that_do_not_go_together_are_refused(tmp_path):
    """--engine has no service to ask, and a service has no workers."""
    for arguments, sentence in (
        ((tmp_path, "--engine", "dask"), "--engine needs --out"),
        ((tmp_path, "--engine", "dask", "--out", "o", "--token", "t"), "is for a service"),
        ((tmp_path, "--part-size", "7"), "goes with --engine"),
    ):
        _, err = end(begin(*arguments), 2)
        assert sentence in " ".join(err.replace("│", " ").split())


def test_engine_that_is_not_installed_says_how(photos, publish, tmp_path):
    """One line, with the command that installs it."""
    publish()
    (tmp_path / "without" / "distributed").mkdir(parents=True)
    (tmp_path / "without" / "distributed" / "__init__.py").write_text("import not_there")
    process = begin(
        photos, "--engine", "dask", "--out", tmp_path / "out", "--repository", tmp_path / "models",
        PYTHONPATH=f"{tmp_path / 'without'}:{ROOT}",
    )  # fmt: skip
    _, err = end(process, 1)
    assert "pip install 'hansang[dask]'" in err
    assert "Traceback" not in err


def test_worker_killed_in_mid_part_costs_no_photo_and_doubles_none(photos, publish, tmp_path):
    """Dask: of three workers one is killed at work; others take its part, and nothing twice."""
    from distributed import Client, LocalCluster

    publish(loops=LOOPS)
    out = tmp_path / "out"
    with (
        LocalCluster(n_workers=3, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        process = begin(
            photos, "--engine", "dask", "--cluster", cluster.scheduler_address, "--out", out,
            "--repository", tmp_path / "models", "--part-size", 4, "--json",
        )  # fmt: skip
        pids = client.run(os.getpid)
        victim = None
        end_s = time.monotonic() + 60
        while victim is None:
            assert time.monotonic() < end_s
            begun = (out / "answers").is_dir()
            working = {at: keys for at, keys in client.processing().items() if keys}
            victim = next(iter(working), None) if begun else None
        os.kill(pids[victim], signal.SIGKILL)
        told, _ = end(process)
        assert victim not in client.scheduler_info()["workers"]
    summary = json.loads(told)
    assert (60, 60, 0, 0) == tuple(
        summary[name] for name in ("photos", "classified", "failed", "unfinished")
    )
    require_one_answer_each(out, photos)


def test_rays_worker_killed_in_mid_part_costs_no_photo_and_doubles_none(photos, publish, tmp_path):
    """Ray: the same, with the workers that it starts by itself."""
    pytest.importorskip("ray", reason="make test-engines")
    publish(loops=LOOPS)
    out = tmp_path / "out"
    process = begin(
        photos, "--engine", "ray", "--workers", 2, "--out", out, "--repository",
        tmp_path / "models", "--part-size", 4, "--json",
    )  # fmt: skip
    victim = None
    end_s = time.monotonic() + 60
    while victim is None:
        assert time.monotonic() < end_s
        # A worker of Ray is called after what it does, while it does it.
        working = _working(process.pid, "ray::part_of")
        victim = next(iter(working), None) if (out / "answers").is_dir() else None
    os.kill(victim, signal.SIGKILL)
    summary = json.loads(end(process)[0])
    assert (60, 60, 0, 0) == tuple(
        summary[name] for name in ("photos", "classified", "failed", "unfinished")
    )
    require_one_answer_each(out, photos)


def _working(parent: int, name: str) -> list[int]:
    """Return the descendants of a process that are called so."""
    parents, named = {}, []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "stat").read_text().rpartition(")")[2].split()
            parents[int(folder.name)] = int(status[1])
            if (folder / "cmdline").read_text().startswith(name):
                named.append(int(folder.name))
        except (OSError, UnicodeDecodeError):
            continue

    def below(pid: int) -> bool:
        return pid == parent or (pid in parents and below(parents[pid]))

    return [pid for pid in named if below(pid)]


def test_command_killed_with_its_workers_goes_on(photos, publish, tmp_path):
    """Everything is killed at once; the same command does what is left, and nothing again."""
    publish(loops=LOOPS)
    out = tmp_path / "out"
    given = (
        photos, "--engine", "dask", "--workers", 2, "--out", out, "--repository",
        tmp_path / "models", "--part-size", 4,
    )  # fmt: skip
    first = begin(*given)
    end_s = time.monotonic() + 60
    while len(list((out / "answers").glob("*.jsonl"))) < 3:
        assert time.monotonic() < end_s
        assert first.poll() is None
        time.sleep(0.01)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    before = {path: path.stat().st_mtime_ns for path in (out / "answers").glob("*.jsonl")}
    assert len(before) < 15
    (photos / "낮" / "broken.jpg").write_bytes(b"too late for the plan")
    told, _ = end(begin(*given))
    assert f"60 of 60 photos are classified in {out}/answers" in told
    assert before == {path: path.stat().st_mtime_ns for path in before}
    require_one_answer_each(out, photos)
    _, err = end(begin(*given, "--top-k", 3), 1)
    assert "--top-k 5" in err
    assert "another --out" in err


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
    keys = (key for key in bucket.find("bucket/photos") if is_photo(key.rsplit("/", 1)[1]))
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
