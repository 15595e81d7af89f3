"""Studies: who does which trial, what is pruned, what a killed worker leaves."""

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
from types import SimpleNamespace

import optuna
import pytest
import torch
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState

from tests.paths import ROOT
from training.ablation.arms import Arm, train_arms
from training.config import TrainConfig
from training.data.cache import DatasetCache
from training.data.prepare import prepare
from training.errors import ConfigError, StoppedError
from training.loop.learner import Learner
from training.recipes import recipe
from training.tuning import search
from training.tuning.search import best_run, outcome, ranking, saved_share, work
from training.tuning.space_file import read_space
from training.tuning.storages import (
    failing_in_words,
    storage_of,
    url_of,
    without_password,
)
from training.tuning.study import Plan, Study, open_study

PROCESSES = multiprocessing.get_context("forkserver")
POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


@pytest.fixture(scope="session")
def cache(dishes: Path, tmp_path_factory: pytest.TempPathFactory) -> DatasetCache:
    """The drawn dishes at 32 px."""
    return prepare(dishes, 32, cache_root=tmp_path_factory.mktemp("tune") / "cache")


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


def study_of(runs_dir: Path, storage: str | None = None, **changed: object) -> Study:
    """Open a study of four epochs."""
    values = {"name": "s", "recipe": "scratch", "epochs": 4, "image_size": 32, "seed": 3,
              "pruning": True, "dataset_hash": "h"} | changed  # fmt: skip
    base = recipe("scratch").with_overrides({"epochs": values["epochs"], "image_size": 32})
    space = read_space(str(values.pop("space", "default")), base)
    return open_study(Plan(**values, space=space.to_dict()), runs_dir, storage, space)


def told(study: Study, trials: int) -> list[dict[str, object]]:
    """Do trials whose value is a function of their settings; return what was tried."""
    while (claim := study.claim(trials)) is not None:
        study.optuna.tell(claim.trial, claim.config.label_smoothing)
        claim.release()
    return [trial.params for trial in study.trials()]


def test_the_search_is_a_function_of_its_seed(tmp_path):
    """The same seed proposes the same trials, also when it stops after each; another does not."""
    # The first ten are drawn at random; then TPE proposes.
    first = told(study_of(tmp_path / "a"), 13)
    for trials in (1, 4, 12, 13):
        stopped = told(study_of(tmp_path / "b"), trials)
    assert first == stopped
    assert 13 == len(first)
    other = told(study_of(tmp_path / "c", seed=4), 4)
    assert first[:2] == other[:2]
    assert first[2:4] != other[2:]


def test_trial_0_is_the_baseline_and_1_the_recipe(tmp_path):
    """They are the recipes themselves, also where the space has only something near."""
    study = study_of(tmp_path)
    for name in ("baseline", "scratch"):
        claim = study.claim(2)
        budget = {"epochs": 4, "image_size": 32, "seed": 3}
        assert claim.config == recipe(name).with_overrides(budget)
        assert claim.is_recipe
        study.optuna.tell(claim.trial, 0.5)
        claim.release()
    assert study.claim(2) is None
    assert study.finished(2)
    assert not study.finished(3)


def test_a_trial_is_one_workers_until_that_worker_dies(tmp_path):
    """Two workers get different trials; a lock that is let go of gives the very trial again."""
    one, two = study_of(tmp_path), study_of(tmp_path)
    first, second = one.claim(3), two.claim(3)
    assert (0, 1) == (first.trial.number, second.trial.number)
    third = two.claim(3)
    assert two.claim(3) is None
    assert not two.finished(3)
    tried = third.trial.params
    # What the system does when a process ends, however it ends.
    third.release()
    again = one.claim(3)
    assert (2, tried) == (again.trial.number, again.trial.params)
    assert again.config == third.config
    assert 3 == len(one.trials())
    for claim in (first, second, again):
        claim.release()


def test_a_trial_that_ends_while_another_looks_is_not_run_again(tmp_path, monkeypatch):
    """Its worker tells the result between the look at the list and the lock: it stays done."""
    one, two = study_of(tmp_path), study_of(tmp_path)
    first = one.claim(2)
    lock = two._lock

    def ends_meanwhile(number):
        if number == 0 and first.lock is not None:
            one.optuna.tell(first.trial, 0.5)
            first.release()
            first.lock = None
        return lock(number)

    monkeypatch.setattr(two, "_lock", ends_meanwhile)
    second = two.claim(2)
    assert 1 == second.trial.number
    second.release()


def test_a_worker_that_does_not_fit_the_study_is_refused(tmp_path):
    """Another budget, another folder, an unreachable or unknown storage: each says what to do."""
    storage = f"sqlite:///{tmp_path}/shared.db"
    study_of(tmp_path / "a", storage)
    with pytest.raises(ConfigError, match="began otherwise: epochs: 4 there, 8 now"):
        study_of(tmp_path / "a", storage, epochs=8)
    with pytest.raises(ConfigError, match="every worker must see the same folder"):
        study_of(tmp_path / "b", storage)
    with pytest.raises(ConfigError, match=r"joe:\*\*\*@127.0.0.1:9/x cannot be used"):
        study_of(tmp_path / "c", "postgresql://joe:secret@127.0.0.1:9/x")
    with pytest.raises(ConfigError, match="is no URL"):
        study_of(tmp_path / "d", "study.db")
    with pytest.raises(ConfigError, match="give it a name"):
        study_of(tmp_path, name="../s")
    with pytest.raises(ConfigError, match="cannot be used"):
        study_of(tmp_path / "c", "postgresql://u@h:abc/d")
    study_of(tmp_path / "a", storage).claim(3).release()
    with pytest.raises(ConfigError, match="has trials, and this storage has none of them"):
        study_of(tmp_path / "a", f"sqlite:///{tmp_path}/other.db")
    with pytest.raises(ConfigError, match="the photos are others"):
        study_of(tmp_path / "a", storage, dataset_hash="i")
    assert "postgresql+psycopg://u@h/d" == url_of("postgres://u@h/d", tmp_path)
    assert "x://u:***@h/d" == without_password("x://u:p@h/d")
    for url in ("x://u:p%40ss@h/d", "x://u:p@ss@h/d", "x://u@h:a/d", "x://h/d?password=p%40ss"):
        assert "ss" not in without_password(url).replace("password", "")


def test_a_storage_that_fails_is_a_stop_that_goes_on():
    """Whoever began the worker sees that the same command goes on: exit code 75, no traceback."""
    said = r"storage failed: gone away; .* goes on"
    with pytest.raises(StoppedError, match=said) as stopped, failing_in_words():
        raise StorageInternalError("it failed") from OSError("gone away")
    assert 75 == stopped.value.exit_code


@pytest.fixture(scope="session")
def searched(cache: DatasetCache, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A finished study of five trials on the drawn dishes; one of them diverges."""
    runs_dir = tmp_path_factory.mktemp("searched")
    small = runs_dir / "small.toml"
    small.write_text("batch_size = [16, 24]")
    study = study_of(runs_dir, dataset_hash=cache.dataset_hash, space=small)
    study.optuna.enqueue_trial({"optimizer.name": "sgd", "optimizer.lr@sgd": 1e30, "batch_size": 16,
                                "scheduler.name": "none"})  # fmt: skip
    with pytest.warns(UserWarning, match="out of range"):
        work(study, cache, trials=5, device="cpu", threads=1)
    return study


def test_a_search_ranks_prunes_and_saves(searched):
    """Complete trials come first; what was pruned stopped at a rung and freed its epochs."""
    found = ranking(searched.trials())
    assert 5 == len(found)
    assert {"baseline", "scratch"} == {one.recipe for one in found if one.recipe}
    complete = [one for one in found if one.state == "complete"]
    assert all(4 == one.epochs for one in complete)
    assert all(one.state == "complete" for one in found if one.recipe)
    assert [one.value for one in complete] == sorted((o.value for o in complete), reverse=True)
    pruned = [one for one in found if one.state == "pruned"]
    assert pruned
    for one in pruned:
        path = searched.folder / one.run / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.is_file() else []
        assert len(lines) == one.epochs < 4
        # Epochs are timed in its metrics; judging came on top.
        trained_s = sum(json.loads(line)["train_s"] for line in lines)
        assert one.seconds > trained_s or one.epochs == 0
    spent = sum(one.epochs + one.previews for one in found)
    assert 1 - spent / 20 == saved_share(found, 4)
    best, run_dir = best_run(searched.optuna, searched.folder)
    assert best == found[0]
    assert best.value == json.loads((run_dir / "result.json").read_text())["val_top1"]


def test_a_trial_that_falls_behind_is_given_up_at_its_rung(cache, tmp_path, monkeypatch):
    """Of three the second best goes no further, and the recipe goes on though it is the worst."""
    study = study_of(tmp_path)
    worth = (0.1, 0.5, 0.3, 0.6)

    def trains(config, cache, run_dir, *, after_epoch, **options):
        (run_dir / "checkpoints").mkdir()
        value = worth[int(run_dir.name[-4:])]
        for epoch in range(1, 5):
            after_epoch([{}] * epoch, lambda: value)
        return SimpleNamespace(epochs=4, val_top1=value)

    monkeypatch.setattr(search, "train", trains)
    done = work(study, cache, trials=4, device="cpu", threads=1)
    assert ["complete", "complete", "pruned", "complete"] == [one.state for one in done]
    assert [4, 4, 1, 4] == [one.epochs for one in done]
    assert (0.3, None) == (done[2].value, done[2].why)
    assert 1 - (3 * 6 + 2) / 16 == saved_share(done, 4)


def test_a_trial_that_diverges_is_given_up_and_says_why(searched):
    """Its loss is not finite: the search goes on, and learns to keep away."""
    diverged = outcome(searched.trials()[2])
    assert "pruned" == diverged.state
    assert "not finite" in diverged.why
    assert 0.0 == diverged.value
    assert 0 == diverged.previews


def test_a_trial_that_fits_no_memory_is_given_up(cache, tmp_path, monkeypatch):
    """Its batch is its settings' fault: the search goes on, and no other worker takes it up."""
    study = study_of(tmp_path, dataset_hash=cache.dataset_hash)

    def full(self: Learner, *rest: object, **options: object) -> None:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(Learner, "step", full)
    done = work(study, cache, trials=1, device="cpu", threads=1)
    assert ("pruned", 0, 0) == (done[0].state, done[0].epochs, done[0].previews)
    assert "memory" in done[0].why
    assert study.finished(1)


def test_finished_trials_keep_two_checkpoints_at_most(searched):
    """Forty trials must not fill a disk: of each the last and the best checkpoint stay."""
    for one in ranking(searched.trials()):
        files = {path.name for path in (searched.folder / one.run / "checkpoints").iterdir()}
        assert len([name for name in files if name.startswith("step-")]) <= 1


def test_a_finished_study_has_nothing_left_to_do(searched, cache):
    """The same call again trains nothing; more trials go on where it ended."""
    before = searched.trials()
    assert [] == work(searched, cache, trials=5, device="cpu", threads=1)
    assert before == searched.trials()


# --- workers that die -----------------------------------------------------------------------------


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
