"""What may happen to a run while nobody looks: kills at any moment, damaged files."""

import ctypes
import os
import random
import shutil
import signal
import time
from collections import Counter

import pytest
from safetensors.torch import load_file

from tests.thin import thin_network
from tests.training.runs.disturbed import CONFIG, PROCESSES, assert_same, go, go_thin
from tests.training.runs.runs import begin, wait_for
from training.errors import DivergedError, RunError
from training.loop import saving
from training.loop.learner import Learner
from training.loop.trainer import train
from training.runs import checkpoint

pytestmark = pytest.mark.usefixtures("thin")

PHASES = ("between", "step", "checkpoint", "validation", "files")


def go_and_tell(cache: str, run_dir: str, phase: ctypes.c_int, writing: ctypes.c_int) -> None:
    """Train as `go` does; what it is in the middle of can be read from outside, at any time."""

    def tell(owner: object, name: str, number: int, phase: ctypes.c_int = phase) -> None:
        whole = getattr(owner, name)

        def telling(*arguments, **options):
            before, phase.value = phase.value, number
            try:
                return whole(*arguments, **options)
            finally:
                phase.value = before

        setattr(owner, name, telling)

    # A thread writes the checkpoint, links the best, writes the metrics and removes the old.
    tell(Learner, "step", PHASES.index("step"))
    tell(Learner, "evaluate", PHASES.index("validation"))
    tell(checkpoint, "save", PHASES.index("checkpoint"), writing)
    tell(saving, "update_files", PHASES.index("files"), writing)
    go(cache, run_dir)


@pytest.fixture(scope="module")
def whole(cache, tmp_path_factory):
    """A run of the whole network that nobody disturbed, and how many seconds it took.

    Its checkpoints of 134 MB take long enough to be killed within.
    """
    run_dir = tmp_path_factory.mktemp("whole") / "r"
    process = PROCESSES.Process(target=go, args=(str(cache.path), str(run_dir)))
    process.start()
    while not run_dir.exists():
        time.sleep(0.001)
    started_s = time.monotonic()
    process.join()
    assert 0 == process.exitcode
    return run_dir, time.monotonic() - started_s


@pytest.mark.parametrize(
    ("times", "each"), [(5, 1), pytest.param(20, 3, marks=pytest.mark.long)], ids=["day", "night"]
)
def test_kills_at_random_moments_change_nothing(whole, cache, tmp_path, times, each):
    """One run, killed so often: within steps, validations and the writing of files."""
    reference, took_s = whole
    run_dir, moments = tmp_path / "r", random.Random(0)
    kills: Counter[str] = Counter()
    died = 0

    for _ in range(60):
        wanted = min(range(1, len(PHASES)), key=lambda number: kills[PHASES[number]])
        phase, writing = (PROCESSES.Value("i", 0, lock=False) for _ in range(2))
        process = PROCESSES.Process(
            target=go_and_tell, args=(str(cache.path), str(run_dir), phase, writing)
        )
        process.start()
        while process.exitcode is None and not phase.value:
            time.sleep(0.001)
        until_s = time.monotonic() + moments.uniform(0.0, took_s / 16)
        while process.exitcode is None:
            if time.monotonic() > until_s and wanted in (phase.value, writing.value):
                # Not always as it begins.
                time.sleep(moments.uniform(0.0, 0.01) if wanted < 4 else 0.0)
                break
            # Leaves the core to it, and misses nothing that writes to a disk.
            time.sleep(0.0003)
        process.kill()
        process.join()
        if process.exitcode == -signal.SIGKILL:
            # Where it was when it died, not when it was aimed at; a thread writes beside the steps.
            died += 1
            kills.update({PHASES[phase.value], PHASES[writing.value]})
        else:
            # It came to its end; what is left of the kills goes to a fresh one.
            assert 0 == process.exitcode
            assert_same(reference, run_dir)
            shutil.rmtree(run_dir)
        if died >= times and min(kills[name] for name in PHASES[1:]) >= each:
            break
    assert died >= times
    # Files are written in moments beside the steps, which a quick machine hardly shows.
    assert min(kills[name] for name in PHASES[1:]) >= 1, kills
    process = PROCESSES.Process(target=go, args=(str(cache.path), str(run_dir)))
    process.start()
    process.join()

    assert 0 == process.exitcode
    assert_same(reference, run_dir)


@pytest.mark.parametrize("where", ["weights", "optimizer"])
def test_a_step_that_spoils_the_weights_is_never_the_newest_checkpoint(
    undisturbed, cache, tmp_path, monkeypatch, where
):
    """The loss is finite, what the step left is not: the checkpoint before is kept and resumed."""
    run_dir, step = tmp_path / "r", Learner.step
    steps = 0

    def spoil(learner, *arguments, **options):
        nonlocal steps
        loss = step(learner, *arguments, **options)
        steps += 1
        if steps == 7:
            weight = learner.model.fc.weight
            momentum = learner.optimizer.state[weight]["momentum_buffer"]
            (weight if where == "weights" else momentum).detach()[0, 0] = float("inf")
        return loss

    monkeypatch.setattr(Learner, "step", spoil)
    every_step = CONFIG.with_overrides({"checkpoint_every_steps": 1})
    with pytest.raises(DivergedError, match=r"the weights are not finite at step 6 .*epoch 2"):
        train(every_step, cache, run_dir, device="cpu")
    newest = sorted((run_dir / "checkpoints").glob("step-*"))[-1]
    assert "step-00000006" == newest.stem
    assert all(tensor.isfinite().all() for tensor in load_file(newest).values())
    monkeypatch.undo()
    train(every_step, cache, run_dir, device="cpu")

    assert_same(undisturbed, run_dir)


# `test_learning.py` has every kind of damage by day, without runs.
@pytest.mark.parametrize(
    "damage", ["flip", *(pytest.param(each, marks=pytest.mark.long) for each in ("cut", "empty"))]
)
def test_a_damaged_newest_checkpoint_costs_a_few_steps(
    undisturbed, cache, tmp_path, capsys, damage
):
    """The one before is taken, said aloud, and the run still ends with the same weights."""
    run_dir = tmp_path / "r"
    stops = iter([False] * 7)

    with pytest.raises(RunError, match="the same command goes on"):
        train(CONFIG, cache, run_dir, device="cpu", should_stop=lambda: next(stops, True))
    newest = sorted((run_dir / "checkpoints").glob("step-*"))[-1]
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes({"flip": data, "cut": data[: len(data) // 2], "empty": b""}[damage])
    train(CONFIG, cache, run_dir, device="cpu")

    assert "is damaged" in capsys.readouterr().err
    assert_same(undisturbed, run_dir)


# A rate so low that the first epoch stays the best: no checkpoint of it is left but that one.
FIRST_IS_BEST = CONFIG.with_overrides({"epochs": 3, "optimizer.lr": 1e-4})


@pytest.fixture(scope="module")
def first_is_best(cache, tmp_path_factory):
    """A finished run whose first epoch is the best."""
    run_dir = tmp_path_factory.mktemp("first-is-best") / "r"
    with thin_network():
        assert 1 == train(FIRST_IS_BEST, cache, run_dir, device="cpu").best_epoch
    return run_dir


@pytest.mark.parametrize("damage", ["flip", "gone"])
def test_a_damaged_best_epoch_is_trained_again(first_is_best, cache, tmp_path, capsys, damage):
    """It is said aloud, and the run ends with the same best weights, metrics and result."""
    run_dir = tmp_path / "r"
    shutil.copytree(first_is_best, run_dir)
    best = run_dir / "checkpoints" / checkpoint.BEST
    data = bytearray(best.read_bytes())
    data[len(data) // 2] ^= 1
    best.unlink() if damage == "gone" else best.write_bytes(data)

    train(FIRST_IS_BEST, cache, run_dir, device="cpu")

    assert "is damaged" in capsys.readouterr().err
    assert_same(first_is_best, run_dir)


def test_a_killed_owner_leaves_no_lock(cache, tmp_path):
    """The second process is refused by name while the first lives, and not a moment longer."""
    run_dir = tmp_path / "r"
    process = PROCESSES.Process(target=go_thin, args=(str(cache.path), str(run_dir)))
    process.start()
    while not (run_dir / "checkpoints").exists():
        time.sleep(0.001)

    with pytest.raises(RunError, match=rf"another process \(pid {process.pid}\) trains"):
        train(CONFIG, cache, run_dir, device="cpu")
    process.kill()
    process.join()

    train(CONFIG, cache, run_dir, device="cpu")


# By day `test_runs.py` sends SIGTERM, and `test_saving.py` SIGHUP.
@pytest.mark.parametrize(
    "number",
    [signal.SIGUSR1,
     *(pytest.param(each, marks=pytest.mark.long) for each in (signal.SIGTERM, signal.SIGHUP))],
)  # fmt: skip
def test_a_signal_saves_within_ten_seconds(dishes, tmp_path, number):
    """The exit code is 75 and the checkpoint is that of the very step."""
    process = begin(dishes, tmp_path, "--epochs", "500")
    wait_for(3, tmp_path, process)
    os.kill(process.pid, number)
    started_s = time.monotonic()
    process.join()

    assert 75 == process.exitcode
    assert time.monotonic() - started_s < 10
    said = (tmp_path / "said").read_text()
    step = int(said.split(", step ")[1].split(";")[0])
    assert checkpoint.path_of(tmp_path / "runs" / "r" / "checkpoints", step).exists()
