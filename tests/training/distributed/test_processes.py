"""Processes that train together, by gloo on a CPU; and a device that has too little memory."""

import contextlib
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

from tests.paths import ROOT
from tests.thin import thin_network
from tests.training.batchnorm import fix_statistics
from training.cli import train as train_cli
from training.config import TrainConfig
from training.data.augment_parameters import sample_parameters
from training.data.cache import DatasetCache, Split
from training.data.loader import loader_for
from training.data.prepare import prepare
from training.distributed.world import joined
from training.errors import StoppedError
from training.loop import learner as learner_module
from training.loop.learner import Learner, StepData
from training.loop.trainer import train
from training.model.resnet import build
from training.runs import checkpoint


def command(photos: Path, home: Path, *more: str) -> list[str]:
    """Return the command line of a small run in `home`."""
    return [
        sys.executable, "-m", "training", str(photos), "--run", "r", "--epochs", "2",
        "--image-size", "32", "--batch-size", "12", "--set", "augment.cutmix=1",
        "--threads", "1", "--runs-dir", str(home / "runs"), "--cache-dir", str(home / "cache"),
        *more,
    ]  # fmt: skip


def metrics(home: Path) -> list[dict[str, float]]:
    """Return the epochs of the run in `home`."""
    text = (home / "runs" / "r" / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.long
def test_two_processes_started_by_the_command_stop_and_one_goes_on(dishes, tmp_path):
    """SIGTERM reaches both through the launcher, which exits with 75 as well."""
    two = subprocess.Popen(
        command(dishes, tmp_path / "two", "--nproc", "2"),
        cwd=ROOT, stderr=subprocess.PIPE, text=True, env={**os.environ, "HANSANG_PROGRESS_S": "0"},
    )  # fmt: skip
    for line in two.stderr:
        if line.startswith("train: 5/"):
            two.send_signal(signal.SIGTERM)
    two.communicate()
    assert 75 == two.returncode
    state = checkpoint.load(sorted((tmp_path / "two/runs/r/checkpoints").glob("step-*"))[-1])[1]
    assert 5 <= state["step"] <= 7

    subprocess.run(
        command(dishes, tmp_path / "two", "--accept-changes"),
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip

    assert [4, 8] == [epoch["steps"] for epoch in metrics(tmp_path / "two")]


# Forked from a clean server that has imported torch: a real process, in milliseconds.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["training.loop.trainer", "training.data.prepare", "training.cli.train"]
)


def in_processes(size: int, work: Callable[..., None], *arguments: object) -> None:
    """Call `work(rank, size, port, …)` in so many processes that find each other at a port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [
        PROCESSES.Process(target=work, args=(rank, size, port, *arguments)) for rank in range(size)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join()
    assert [0] * size == [process.exitcode for process in started]


def become(rank: int, size: int, port: int) -> None:
    """Be one of `size` processes that find each other at a port, as torchrun would have it."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank),
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}  # fmt: skip


def fixed_step(rank: int, size: int, port: int, out: Path) -> None:
    """Take a step as one of `size` processes, with BatchNorm's statistics fixed; save weights."""
    become(rank, size, port)
    torch.set_num_threads(1)
    config = TrainConfig(image_size=32, batch_size=8, precision="fp32")
    config = config.with_overrides({"augment.cutmix": 1})
    images = torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (8, 37, 37, 3), dtype=np.uint8)
    )
    parameters = sample_parameters(8, config.augment, seed=0, step=0)
    with joined(cuda=False) as world:
        learner = Learner(config, 3, torch.device("cpu"), world=world)
        fix_statistics(learner)
        part = world.part(8)
        data = StepData(images[part], (torch.arange(8) % 3)[part], parameters[part], size=32)
        learner.step(data, lr=0.1)
        if world.leads:
            torch.save(learner.model.state_dict(), out)


def test_a_shared_step_is_the_step_of_one(tmp_path):
    """Two processes that share a batch end with the weights of one that computes all of it."""
    for size in (1, 2):
        in_processes(size, fixed_step, tmp_path / f"{size}.pt")

    one, two = (torch.load(tmp_path / f"{size}.pt", weights_only=True) for size in (1, 2))

    start = build(3, seed=0).state_dict()
    assert all(torch.allclose(one[name], two[name], atol=2e-5) for name in one)
    assert not torch.allclose(one["fc.weight"], start["fc.weight"], atol=1e-4)


@pytest.mark.long
def test_torchrun_itself_starts_a_run_and_a_bad_batch_is_refused(dishes, tmp_path):
    """The plain `torchrun -m training` works; a batch that cannot be shared is one sentence."""
    # "--": on some Pythons torchrun takes what follows, such as --run, for options of its own.
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone",
                "--nproc-per-node", "2", "-m", "--", *command(dishes, tmp_path)[2:]]  # fmt: skip

    done = subprocess.run(torchrun, cwd=ROOT, capture_output=True, text=True)
    odd = subprocess.run(
        [*torchrun, "--run", "odd", "--batch-size", "13", "--set", "augment.cutmix=0"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip

    assert 0 == done.returncode, done.stderr
    assert 2 == len(metrics(tmp_path))
    assert 1 == odd.returncode
    assert "13 photos cannot be shared equally by 2 processes; try --batch-size 12" in odd.stderr


@pytest.mark.long
@pytest.mark.timeout(900)
def test_two_machines_end_with_the_weights_of_one(dishes, tmp_path):
    """Two agents of torchrun, as on two machines that see one folder: one run, the same bits."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    agents = [
        subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--node-rank",
             str(node), "--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port",
             str(port), "-m", "--", *command(dishes, tmp_path / "nodes")[2:]],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for node in range(2)
    ]  # fmt: skip
    printed = [agent.communicate(timeout=240)[0] for agent in agents]
    assert [0, 0] == [agent.returncode for agent in agents], printed
    for home, num_processes in (("one", "2"), ("alone", "1")):
        subprocess.run(
            command(dishes, tmp_path / home, "--nproc", num_processes),
            cwd=ROOT, check=True, capture_output=True,
        )  # fmt: skip

    (nodes, seen), (one, known), (alone, _) = (
        checkpoint.load(sorted((tmp_path / home / "runs/r/checkpoints").glob("step-*"))[-1])
        for home in ("nodes", "one", "alone")
    )

    assert known["step"] == seen["step"] > 0
    assert one.keys() == nodes.keys()
    assert all(torch.equal(one[name], nodes[name]) for name in one)
    # BatchNorm sees other halves in one process: what is compared does tell runs apart.
    assert not all(torch.equal(one[name], alone[name]) for name in one)


def learn(rank: int, size: int, port: int, cache: Path, run_dir: Path, asked: int) -> None:
    """Train as one of `size` processes, with fixed statistics; stop when asked so many times."""
    become(rank, size, port)
    # Else BatchNorm would see half a batch in each of two processes, and that is another lesson.
    learner_module.set_modes = lambda model, _: model.eval()
    answers = iter([False] * asked)
    config = TrainConfig(image_size=32, batch_size=12, epochs=2, precision="fp32", threads=1)
    config = config.with_overrides({"augment.cutmix": 1, "optimizer.clip_norm": 1})
    with thin_network(), joined(cuda=False) as world, contextlib.suppress(StoppedError):
        train(
            config, DatasetCache.open(cache), run_dir, device="cpu", world=world,
            accept_changes=True, should_stop=lambda: next(answers, asked < 100),
        )  # fmt: skip


@pytest.mark.usefixtures("thin")
def test_checkpoints_are_exchanged_between_one_process_and_two(dishes, tmp_path):
    """At a real learning rate, one goes on for two and two for one, to the weights of one alone."""
    cache = prepare(dishes, 32, cache_root=tmp_path / "cache")
    never, in_the_second_epoch = 100, 5

    def newest(name: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        return checkpoint.load(sorted((tmp_path / name / "checkpoints").glob("step-*"))[-1])

    in_processes(1, learn, cache.path, tmp_path / "alone", never)
    for name, first, then in (("two-one", 2, 1), ("one-two", 1, 2)):
        in_processes(first, learn, cache.path, tmp_path / name, in_the_second_epoch)
        assert 5 == newest(name)[1]["step"]
        in_processes(then, learn, cache.path, tmp_path / name, never)

    def line(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.cat([tensors[f"model.{name}"].flatten() for name in names])

    names = [name for name, _ in build(3, seed=0).named_parameters()]
    start = torch.cat([parameter.flatten() for parameter in build(3, seed=0).parameters()])
    expected, state = newest("alone")
    way = (line(expected) - start).norm()
    assert way > 0.05
    for name in ("two-one", "one-two"):
        tensors, found = newest(name)
        assert (line(tensors) - line(expected)).norm() < 0.01 * way
        for ours, theirs in zip(found["history"], state["history"], strict=True):
            assert theirs["steps"] == ours["steps"]
            assert theirs["train_loss"] == pytest.approx(ours["train_loss"], rel=1e-3)
            assert theirs["val_loss"] == pytest.approx(ours["val_loss"], rel=1e-3)


def validate(rank: int, size: int, port: int, out: Path) -> None:
    """Validate as one of `size` processes, and stop when the last of them is asked to."""
    become(rank, size, port)
    torch.set_num_threads(1)
    split = Split(np.zeros((513, 37, 37, 3), np.uint8), np.arange(513) % 3, ("",) * 513)
    asked = 0
    with thin_network(), joined(cuda=False) as world:
        learner = Learner(TrainConfig(image_size=32), 3, torch.device("cpu"), world=world)

        def stop_if_asked() -> None:
            nonlocal asked
            asked += 1
            if world.any(rank == size - 1 and asked == 2):
                raise StoppedError("stopped")

        with contextlib.suppress(StoppedError):
            learner.evaluate(loader_for(split, learner.device), stop_if_asked)
    (out / str(rank)).write_text(str(asked))


def test_processes_stop_together_within_a_validation(tmp_path):
    """Of 513 photos one has a batch, the other two: both are asked as often, and both stop."""
    in_processes(2, validate, tmp_path)

    assert ["2", "2"] == [(tmp_path / str(rank)).read_text() for rank in range(2)]


def with_room_for(most: int, data: Path, home: Path, **options: object) -> None:
    """Train by the command, in a process whose device has no memory for more than `most` photos."""
    whole = Learner._loss

    def small(self, data, rows):
        if len(data.targets[rows]) > most:
            raise torch.OutOfMemoryError("no room")
        return whole(self, data, rows)

    Learner._loss = small
    reported = patch("training.reports.tracking.reported", lambda _run_dir: "")
    with thin_network(), reported:
        train_cli.train(
            data, recipe="scratch", run="r", image_size=32, batch_size="auto",
            setting=["batch_size=16"], threads=1, device="cpu", runs_dir=home / "runs",
            cache_dir=home / "cache", **options,
        )  # fmt: skip


def test_a_batch_that_is_fitted_is_trained_to_the_end_and_kept(dishes, tmp_path):
    """With room for 4 photos of 16 steps are as many; with more room later, the same parts."""
    last = "checkpoints/step-{:08d}.safetensors"
    for most, steps, options in ((4, 3, {"epochs": 1}), (100, 6, {"epochs": 2, "extend": True})):
        process = PROCESSES.Process(
            target=with_room_for, args=(most, dishes, tmp_path), kwargs=options
        )
        process.start()
        process.join()

        assert 0 == process.exitcode
        run_dir = tmp_path / "runs" / "r"
        config = json.loads((run_dir / "config.json").read_text())["config"]
        assert (16, 4) == (config["batch_size"], config["micro_batch_size"])
        assert steps == json.loads((run_dir / "metrics.jsonl").read_text().split("\n")[-2])["steps"]
        assert (run_dir / last.format(steps)).exists()
