"""Checkpoints are written beside the training: what waits for them, and what does not."""

import os
import pty
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

from tests.paths import ROOT
from tests.training.runs.disturbed import CONFIG, assert_same
from training.errors import RunError, StoppedError
from training.loop.learner import Learner
from training.loop.saving import Writer, copied
from training.loop.trainer import train
from training.runs import checkpoint

pytestmark = pytest.mark.usefixtures("thin")


def test_steps_go_on_while_a_checkpoint_is_written(cache, undisturbed, tmp_path, monkeypatch):
    """The first checkpoint is held until three more steps are taken; the run ends the same."""
    save, step, taken, at_save = checkpoint.save, Learner.step, [], []

    def counted(learner, *arguments, **options):
        taken.append(1)
        return step(learner, *arguments, **options)

    def slow(*arguments):
        assert threading.current_thread() is not threading.main_thread()
        before = len(taken)
        end_s = time.monotonic() + 30
        # The next checkpoint, two steps on, waits for this one.
        while not at_save and len(taken) < before + 2 and time.monotonic() < end_s:
            time.sleep(0.001)
        at_save.append(len(taken) - before)
        save(*arguments)

    monkeypatch.setattr(Learner, "step", counted)
    monkeypatch.setattr(checkpoint, "save", slow)
    train(CONFIG, cache, tmp_path / "r", device="cpu")

    assert 2 == at_save[0]
    assert_same(undisturbed, tmp_path / "r")


def test_a_copy_is_left_alone_by_later_steps():
    """What is written is what the weights were, in the order that files have."""
    weights = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)
    before = weights.clone()

    copy = copied({"w": weights})["w"]
    weights.zero_()

    assert torch.equal(before, copy)
    assert copy.is_contiguous()


def test_a_checkpoint_that_cannot_be_written_ends_the_run(cache, tmp_path, monkeypatch):
    """The error of the thread is the run's, within a step or so; nothing of it is lost."""

    def full(*_arguments):
        raise RunError("cannot write the checkpoint: no space")

    monkeypatch.setattr(checkpoint, "save", full)

    with pytest.raises(RunError, match="no space"):
        train(CONFIG, cache, tmp_path / "r", device="cpu")
    assert not list((tmp_path / "r" / "checkpoints").iterdir())


def test_a_stop_waits_until_its_checkpoint_is_there(cache, tmp_path, monkeypatch):
    """Whoever stopped a run finds the checkpoint of that very step."""
    save = checkpoint.save

    def slow(*arguments):
        time.sleep(0.3)
        save(*arguments)

    monkeypatch.setattr(checkpoint, "save", slow)
    stops = iter([False] * 3)

    with pytest.raises(StoppedError):
        train(CONFIG, cache, tmp_path / "r", device="cpu", should_stop=lambda: next(stops, True))

    assert 4 == checkpoint.newest_step(tmp_path / "r" / "checkpoints")


def test_the_first_error_is_the_one_that_is_told():
    """A checkpoint that fails as the run ends by another error does not hide that one."""

    def fail() -> None:
        raise RunError("the disk")

    def end(error: Exception | None) -> None:
        with Writer() as writer:
            writer.begin(fail)
            if error is not None:
                raise error

    with pytest.raises(KeyError, match="the cause"):
        end(KeyError("the cause"))
    with pytest.raises(RunError, match="the disk"):
        end(None)


def test_a_terminal_that_closes_costs_no_checkpoint(dishes, tmp_path):
    """Its output has nowhere to go any more, and the run is saved all the same."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [
            sys.executable, "-m", "training", str(dishes), "--run", "r", "--epochs", "500",
            "--image-size", "32", "--threads", "1", "--runs-dir", str(tmp_path), "--cache-dir",
            str(tmp_path / "c"),
        ],
        cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    folder = tmp_path / "r" / "checkpoints"
    end_s = time.monotonic() + 200
    while not folder.is_dir() or not list(folder.glob("step-*")):
        assert time.monotonic() < end_s
        assert process.poll() is None
        # A terminal that nobody reads would make it wait.
        os.read(ours, 65536)
    before = checkpoint.newest_step(folder)
    os.close(ours)
    process.send_signal(signal.SIGHUP)

    assert 75 == process.wait(60)
    assert checkpoint.newest_step(folder) > before
