"""Workers of one study in processes of their own, on PostgreSQL; one of them is killed."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from tests.paths import ROOT
from tests.thin import thin_network
from training.ablation.arms import Arm, train_arms
from training.config import TrainConfig
from training.data.cache import DatasetCache
from training.tuning.storages import (
    storage_of,
    url_of,
)

PROCESSES = multiprocessing.get_context("forkserver")


POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


ARMS = [
    Arm(
        name,
        name,
        TrainConfig(epochs=2, image_size=32, batch_size=12, threads=1, label_smoothing=x),
    )
    for name, x in (("some", 0.1), ("more", 0.2))
]


def train_the_arms(cache: str, folder: str, taken: "multiprocessing.Queue[str]") -> None:
    """Train the arms as a process of its own; tell which runs it trained."""

    def told(done: int, total: int, note: str = "") -> None:
        taken.put(note.partition(":")[0])

    opened = DatasetCache.open(Path(cache))
    with thin_network():
        train_arms(ARMS, opened, Path(folder), range(2), device="cpu", progress=told)


def test_two_processes_share_the_runs_of_arms(cache, tmp_path):
    """Each run is trained by one of them, and both end with all of them done."""
    queues = [PROCESSES.Queue(), PROCESSES.Queue()]
    processes = [
        PROCESSES.Process(target=train_the_arms, args=(str(cache.path), str(tmp_path), queue))
        for queue in queues
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()

    assert [0, 0] == [process.exitcode for process in processes]
    taken = []
    for queue in queues:
        mine = set()
        while not queue.empty():
            mine.add(queue.get())
        taken.append(mine)
    assert {f"{name}-seed{seed}" for name in ("some", "more") for seed in range(2)} == (
        taken[0] | taken[1]
    )
    assert not taken[0] & taken[1]
    assert 4 == len(list(tmp_path.glob("*-seed*/result.json")))


@pytest.fixture
def postgres() -> Iterator[str]:
    """A real PostgreSQL server on a socket of its own; its URL."""
    if not POSTGRES:
        pytest.skip("no PostgreSQL here: apt-get install postgresql")
    user = {"user": "postgres"} if os.geteuid() == 0 else {}
    # Not in tmp_path, whose parents the server's own user cannot enter.
    folder = Path(tempfile.mkdtemp(prefix="hansang-pg-", dir="/tmp"))
    try:
        if user:
            shutil.chown(folder, "postgres", "postgres")
        run = {"check": True, "stdout": subprocess.DEVNULL, "cwd": folder, **user}
        subprocess.run([POSTGRES[-1] / "initdb", "-D", folder / "data", "-U", "postgres",
                        "-A", "trust", "-N"], **run)  # fmt: skip
        control = [POSTGRES[-1] / "pg_ctl", "-D", folder / "data", "-w", "-l", folder / "log"]
        subprocess.run([*control, "-o", f"-c listen_addresses='' -k {folder}", "start"], **run)
        try:
            yield f"postgresql://postgres@/postgres?host={folder}"
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], **run)
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def worker(dishes: Path, cache: DatasetCache, tmp_path: Path) -> Iterator[Callable[..., object]]:
    """`worker(storage)` starts a process that joins the study `k` in `tmp_path`."""
    started = []

    def start(storage: str) -> subprocess.Popen[str]:
        with (tmp_path / f"log-{len(started)}").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "hansang", "tune", str(dishes), "--study", "k",
                 "--epochs", "4", "--trials", "4", "--image-size", "32", "--storage", storage,
                 "--threads", "1", "--runs-dir", str(tmp_path),
                 "--cache-dir", str(cache.path.parent), "--json"],
                cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def until(happens: Callable[[], object], timeout_s: float = 400) -> None:
    """Wait for something to happen."""
    deadline = time.monotonic() + timeout_s
    while not happens():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_killed_workers_trial_is_taken_up_by_another(postgres, worker, tmp_path):
    """Two workers on PostgreSQL, one SIGKILLed in mid-trial: no trial is lost or run twice."""
    doomed, survivor = worker(postgres), worker(postgres)
    folder = tmp_path / "k"

    def begun(number: int) -> list[str]:
        lines = (tmp_path / f"log-{number}").read_text().splitlines()
        return [line.split(":")[0] for line in lines if line.startswith("trial ")]

    def held_in_mid_trial() -> bool:
        if not begun(0):
            return False
        # Held still, so that the trial cannot end between the look and the kill.
        doomed.send_signal(signal.SIGSTOP)
        number = int(begun(0)[-1].split()[1])
        if (folder / f"trial-{number:04}" / "metrics.jsonl").is_file():
            storage = storage_of(url_of(postgres, tmp_path))
            study = optuna.load_study(study_name="k", storage=storage)
            running = study.get_trials()[number].state == TrialState.RUNNING
            storage.remove_session()
            storage.engine.dispose()
            if running:
                return True
        doomed.send_signal(signal.SIGCONT)
        return False

    until(held_in_mid_trial)
    # It lives still, and holds its trial: the other one takes another.
    until(lambda: begun(1))
    doomed.kill()
    doomed.communicate()
    killed = begun(0)[-1]
    assert begun(1) != [killed]
    output, _ = survivor.communicate(timeout=400)
    assert 0 == survivor.returncode, (tmp_path / "log-1").read_text()
    result = json.loads(output)
    assert set(range(4)) == {one["number"] for one in result["trials"]}
    assert 4 == len(result["trials"])
    # The one that was killed was begun by both; every other one by one of them.
    assert killed in begun(1)
    assert sorted([*(f"trial {n}" for n in range(4)), killed]) == sorted([*begun(0), *begun(1)])
    for one in result["trials"]:
        lines = (folder / one["run"] / "metrics.jsonl").read_text().splitlines()
        assert one["epochs"] == len(lines)
        assert list(range(1, len(lines) + 1)) == [json.loads(line)["epoch"] for line in lines]
    states = {one["state"] for one in result["trials"]}
    assert states <= {"complete", "pruned"}
