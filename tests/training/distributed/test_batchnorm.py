"""`--sync-batchnorm`: processes take BatchNorm's statistics together, by gloo on a CPU."""

import contextlib
import json
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from tests.thin import thin_network
from tests.training.distributed.test_processes import become, in_processes
from training.cli import train as train_cli
from training.config import TrainConfig
from training.data.augment_parameters import sample_parameters
from training.distributed.batchnorm import SyncBatchNorm, synchronised
from training.distributed.world import joined
from training.export.onnx_export import export_onnx
from training.loop.learner import Learner, StepData
from training.model.resnet import build
from training.runs import checkpoint


def steps(rank: int, size: int, port: int, settings: dict[str, object], out: Path) -> None:
    """Take three steps on twelve photos as one of `size` processes; save weights and buffers."""
    become(rank, size, port)
    torch.set_num_threads(1)
    plain = TrainConfig(image_size=32, batch_size=12, precision="fp32")
    config = plain.with_overrides({"augment.cutmix": 1, **settings})
    images = np.random.default_rng(0).integers(0, 256, (12, 37, 37, 3), dtype=np.uint8)
    with thin_network(), joined(cuda=False) as world:
        learner = Learner(config, 3, torch.device("cpu"), world=world)
        part = world.part(12)
        for step in range(3):
            parameters = sample_parameters(12, config.augment, seed=0, step=step)
            data = StepData(torch.from_numpy(images[part]), (torch.arange(12) % 3)[part],
                            parameters[part], size=32)  # fmt: skip
            learner.step(data, lr=0.02)
        if world.leads:
            torch.save(learner.model.state_dict(), out)


def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], *, stats: bool) -> float:
    """Return how far apart running statistics, or weights, are, relative to their length."""
    names = [name for name, value in one.items()
             if value.is_floating_point() and ("running" in name) == stats]  # fmt: skip
    a, b = (torch.cat([of[name].flatten() for name in names]) for of in (one, other))
    return float((a - b).norm() / a.norm())


def test_two_processes_end_where_one_does_with_the_whole_batch(tmp_path):
    """Weights and running statistics are those of one process; without it they are others."""
    cases = {"one": (1, False), "apart": (2, False), "together": (2, True)}
    found = {}
    for name, (size, sync) in cases.items():
        in_processes(size, steps, {"sync_batchnorm": sync}, tmp_path / name)
        found[name] = torch.load(tmp_path / name, weights_only=True)

    one, two, split = found["one"], found["together"], found["apart"]
    assert list(one) == list(two)
    assert one["bn1.num_batches_tracked"] == two["bn1.num_batches_tracked"] == 3
    assert apart(one, two, stats=True) < 1e-4 < 1e-2 < apart(one, split, stats=True)
    assert apart(one, two, stats=False) < 1e-4 < 1e-2 < apart(one, split, stats=False)


@pytest.mark.parametrize(("device", "kind"), [("cpu", SyncBatchNorm), ("cuda", nn.SyncBatchNorm)])
def test_names_values_and_answers_of_a_model_stay(device, kind):
    """Every BatchNorm is replaced, here or by torch's own; a checkpoint fits both ways."""
    plain = build(3, seed=0)
    inputs = torch.rand(2, 3, 32, 32)
    expected = plain.eval()(inputs)

    made = synchronised(build(3, seed=0), torch.device(device)).eval()

    assert 20 == sum(isinstance(module, kind) for module in made.modules())
    assert 0 == sum(type(module) is nn.BatchNorm2d for module in made.modules())
    made.load_state_dict(plain.state_dict())
    assert list(plain.state_dict()) == list(made.state_dict())
    assert [name for name, _ in plain.named_parameters()] == [n for n, _ in made.named_parameters()]
    assert torch.equal(expected, made(inputs))


def by_command(rank: int, size: int, port: int, photos: Path, home: Path, **more: object) -> None:
    """Train by the command, as one of `size` processes; keep what it says."""
    become(rank, size, port)
    reported = patch("training.reports.tracking.reported", lambda _run_dir: "")
    said = (home / f"said-{rank}").open("a")
    with said, contextlib.redirect_stderr(said), thin_network(), reported:
        train_cli.train(
            photos, run="r", image_size=32, batch_size="8", threads=1,
            device="cpu", runs_dir=home / "runs", cache_dir=home / "cache", **more,
        )  # fmt: skip


@pytest.mark.usefixtures("thin")
def test_a_run_keeps_it_and_is_released_as_any_other(dishes, tmp_path):
    """The flag is a setting; who goes on need not give it; the file has plain layers alone."""
    begin = partial(by_command, recipe="baseline", epochs=1, sync_batchnorm=True)
    in_processes(2, begin, dishes, tmp_path)
    in_processes(2, partial(by_command, epochs=2, extend=True), dishes, tmp_path)

    # Of both processes together; without it they would be 4.
    assert 2 == (tmp_path / "said-0").read_text().count("its statistics from 8 photos at a time")
    run_dir = tmp_path / "runs" / "r"
    config = json.loads((run_dir / "config.json").read_text())["config"]
    assert (True, 2) == (config["sync_batchnorm"], config["epochs"])
    tensors = checkpoint.load(run_dir / "checkpoints" / checkpoint.BEST)[0]
    assert build(3, seed=0).state_dict().keys() == checkpoint.model_tensors(tensors).keys()
    export_onnx(run_dir, tmp_path / "model.onnx")
    graph = onnx.load(tmp_path / "model.onnx").graph
    assert 20 == sum(node.op_type == "Conv" for node in graph.node)
    assert not [node for node in graph.node if node.domain or "Batch" in node.op_type]
