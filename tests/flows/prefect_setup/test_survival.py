"""Runs that nobody is woken for: each row of the failure table, with real processes.

They take ten minutes and more (heartbeats are 30 s apart, and that is the least Prefect takes), so
they run by `make test-prefect`, which sets HANSANG_TEST_PREFECT=1.
"""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.flows.rig import Rig
from tests.paths import ROOT

pytestmark = [
    pytest.mark.timeout(1200),
    pytest.mark.skipif(
        not os.environ.get("HANSANG_TEST_PREFECT"),
        reason="ten minutes of servers, workers and kills: make test-prefect runs it",
    ),
]

EPOCHS = 30
TRAINING = {
    "epochs": EPOCHS, "image_size": 32, "device": "cpu",
    "overrides": {"batch_size": "16", "threads": "1"},
}  # fmt: skip


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    """A server with Hansang's deployments."""
    rig = Rig(tmp_path_factory.mktemp("rig"))
    rig.start_server()
    rig.deploy()
    yield rig
    rig.close()


@pytest.fixture(scope="module")
def reference(photos, tmp_path_factory) -> list[tuple]:
    """What a run that nobody disturbs writes down, epoch by epoch."""
    home = tmp_path_factory.mktemp("reference")
    settings = [f"--set={key}={value}" for key, value in TRAINING["overrides"].items()]
    subprocess.run(
        [sys.executable, "-m", "training", str(photos), "--run", "r", "--epochs", str(EPOCHS),
         "--image-size", "32", "--device", "cpu", *settings, "--runs-dir", str(home),
         "--cache-dir", str(home / "cache")], check=True, capture_output=True,
    )  # fmt: skip
    return epochs(home / "r")


@pytest.fixture
def begun(rig, photos, tmp_path):
    """A run of the deployment `train` with a worker, some epochs on its way."""
    worker = rig.start_worker()
    places = {"runs_dir": str(tmp_path / "runs"), "cache_dir": str(tmp_path / "cache")}
    run = rig.start_run(
        "train/train", {"data": str(photos), "training": TRAINING, "places": places}
    )
    runs = tmp_path / "runs"
    rig.until(lambda: any(len(epochs(each)) >= 3 for each in runs.glob("*")), within_s=300)
    # Named after photos, model and date; begun again, it must find the same one.
    (run_dir,) = (each.parent for each in runs.glob("*/config.json"))
    yield run, run_dir, worker
    end(rig, run)


def end(rig, run: str) -> None:
    """Kill the workers, and let the next test's runs not wait for this one."""
    for each in rig.workers:
        if each.poll() is None:
            os.killpg(each.pid, signal.SIGKILL)
            each.wait()
    if rig.state(run)["type"] not in ("COMPLETED", "CANCELLED", "FAILED"):
        rig.post(f"/flow_runs/{run}/set_state", {"state": {"type": "FAILED"}, "force": True})


def epochs(run_dir: Path) -> list[tuple]:
    """Return what each epoch so far measured."""
    path = run_dir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [
        (found["train_loss"], found["val_loss"], found["val_top1"])
        for found in map(json.loads, lines)
    ]


def trainer(run_dir: Path) -> int:
    """Return the process that trains."""
    return int((run_dir / ".lock").read_text())


def completes(rig, run: str, run_dir: Path, reference: list[tuple], within_s: float = 600) -> None:
    """Wait until a run ends well, and compare it with one that nobody disturbed."""
    rig.until(lambda: rig.state(run)["type"] in ("COMPLETED", "FAILED"), within_s=within_s)
    assert "COMPLETED" == rig.state(run)["type"], rig.states(run)
    assert reference == epochs(run_dir), "what was resumed is not what was never stopped"


def test_an_exception_is_retried_from_the_checkpoint(rig, begun, reference):
    """The training process dies; the task is tried again, in the same run of the flow."""
    run, run_dir, _ = begun

    os.kill(trainer(run_dir), signal.SIGKILL)

    completes(rig, run, run_dir, reference)
    assert "Crashed" not in rig.states(run)
    assert 1 == rig.get(f"/flow_runs/{run}")["run_count"]


def test_a_killed_run_is_begun_again_and_resumes_exactly(rig, begun, reference):
    """SIGKILL of the run: Crashed, scheduled by the automation, resumed by the worker."""
    run, run_dir, _ = begun

    os.kill(rig.pid(run), signal.SIGKILL)

    completes(rig, run, run_dir, reference)
    states = rig.states(run)
    assert states.index("Crashed") < states.index("AwaitingRetry") < states.index("Completed")


def test_a_run_killed_with_its_worker_is_found_by_its_heartbeat(rig, begun, reference):
    """Nobody is left to tell: the missing heartbeat does, and the next worker resumes."""
    run, run_dir, worker = begun
    pid = rig.pid(run)

    os.kill(worker.pid, signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    assert "RUNNING" == rig.state(run)["type"]

    rig.until(lambda: "AwaitingRetry" in rig.states(run), within_s=300)
    assert "no heartbeat for 95 s" in str(rig.get(f"/flow_run_states/?flow_run_id={run}"))
    rig.start_worker()
    completes(rig, run, run_dir, reference)


def test_a_worker_that_is_stopped_leaves_a_checkpoint_and_no_slot(rig, begun, reference):
    """SIGTERM of the worker: nothing stays Running, and the next worker goes on."""
    run, run_dir, worker = begun

    worker.send_signal(signal.SIGTERM)
    worker.wait(180)

    _until_unlocked(run_dir, 30)
    kept = len(epochs(run_dir))
    assert kept < EPOCHS
    rig.until(lambda: rig.state(run)["type"] != "RUNNING", within_s=300)
    rig.until(lambda: rig.state(run)["name"] in ("AwaitingRetry", "Late"), within_s=120)
    rig.start_worker()  # of a pool of one place: a slot that is held would stop it
    completes(rig, run, run_dir, reference)


def test_a_server_that_is_restarted_is_not_missed(rig, begun, reference):
    """The server is gone for some seconds in mid-run."""
    run, run_dir, _ = begun

    rig.stop_server()
    time.sleep(5)
    rig.start_server()

    completes(rig, run, run_dir, reference)


def test_a_server_that_is_down_at_the_end_is_waited_for(rig, begun, reference):
    """Two minutes without a server while the run ends: it ends Completed all the same."""
    run, run_dir, _ = begun

    rig.stop_server()
    rig.until(lambda: (run_dir / "result.json").exists(), within_s=300)
    time.sleep(120)
    rig.start_server()

    completes(rig, run, run_dir, reference)


def test_a_cancelled_run_saves_a_checkpoint_within_20_s(rig, begun):
    """Cancelled in Prefect: the training has saved and ended, and the state says Cancelled."""
    run, run_dir, _ = begun
    state = {"type": "CANCELLING", "name": "Cancelling"}

    rig.post(f"/flow_runs/{run}/set_state", {"state": state})
    began_s = time.monotonic()

    _until_unlocked(run_dir, 20 - (time.monotonic() - began_s))
    rig.until(lambda: rig.state(run)["type"] == "CANCELLED", within_s=60)
    assert sorted((run_dir / "checkpoints").glob("step-*"))
    assert len(epochs(run_dir)) < EPOCHS


def test_a_cancelled_search_saves_what_all_its_workers_do(rig, photos, tmp_path):
    """Tasks in threads hear of a cancellation, too: every trial has saved and ended within 20 s."""
    rig.start_worker()
    search = {"epochs": 3000, "trials": 4, "workers": 2, "image_size": 32, "threads": 1}
    places = {"runs_dir": str(tmp_path / "runs"), "cache_dir": str(tmp_path / "cache")}
    run = rig.start_run(
        "tune/tune", {"data": str(photos), "search": search, "study": "s", "places": places}
    )
    try:
        trials = [tmp_path / "runs/s" / name for name in ("trial-0000", "trial-0001")]
        rig.until(lambda: all(len(epochs(trial)) >= 2 for trial in trials), within_s=300)

        rig.post(
            f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}}
        )
        began_s = time.monotonic()

        for trial in trials:
            _until_unlocked(trial, 20 - (time.monotonic() - began_s))
            assert sorted((trial / "checkpoints").glob("step-*"))
        rig.until(lambda: rig.state(run)["type"] == "CANCELLED", within_s=60)
    finally:
        end(rig, run)


def test_a_run_that_crashes_each_time_is_given_up(rig, tmp_path):
    """Begun four times, never a fifth; it stays Crashed, and says what of."""
    file = tmp_path / "prefect.yaml"
    file.write_text(
        f"""
pull:
  - prefect.deployments.steps.set_working_directory:
      directory: {ROOT}
deployments:
  - name: crash
    entrypoint: tests/flows/prefect_setup/crashing.py:crash
    tags: [hansang]
    work_pool: {{name: hansang-cpu}}
"""
    )
    rig.deploy(file)
    rig.start_worker()
    log = tmp_path / "begun"

    run = rig.start_run("crash/crash", {"log": str(log)})

    rig.until(lambda: log.exists() and len(log.read_text().splitlines()) == 4, within_s=600)
    rig.until(lambda: rig.state(run)["type"] == "CRASHED", within_s=60)
    time.sleep(60)
    assert "CRASHED" == rig.state(run)["type"]
    assert 4 == len(log.read_text().splitlines())
    assert "SIGKILL" in rig.state(run)["message"]


def _until_unlocked(run_dir: Path, within_s: float) -> None:
    """Wait until the training process has let go of its run directory."""
    deadline = time.monotonic() + within_s
    with (run_dir / ".lock").open("a") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                assert time.monotonic() < deadline, f"it still trains after {within_s:.0f} s"
                time.sleep(0.2)
            else:
                return
