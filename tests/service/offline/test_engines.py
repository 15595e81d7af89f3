"""Dask, Ray and one machine: workers and commands that are killed, and what an engine needs."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from tests.paths import ROOT
from tests.service.offline.jobs import LOOPS, begin, end, require_one_answer_each


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
