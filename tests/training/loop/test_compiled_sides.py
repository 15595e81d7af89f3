"""What is compiled of a run, and what it says before it begins; torch's own compiler is faked."""

import numpy as np
import pytest
import torch

from training.config import TrainConfig
from training.data.augment_parameters import sample_parameters
from training.distributed.world import ALONE
from training.loop.batch_finder import find_micro_batch
from training.loop.learner import Learner, StepData
from training.loop.trainer import train


def test_only_the_last_side_is_compiled(monkeypatch):
    """Steps of the growing sides run as they are; all give the losses that they gave."""
    real, compiled = torch.compile, []

    def backend(graph, _inputs):
        compiled.append(graph)
        return graph

    monkeypatch.setattr(
        torch, "compile", lambda model, **_: real(model, backend=backend, dynamic=False)
    )
    plain = {"image_size": 64, "start_scale": 0.5, "batch_size": 4, "precision": "fp32"}
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 73, 73, 3), np.uint8))
    losses = {}
    for mode in ("off", "on"):
        config = TrainConfig(**plain, epochs=3, compile=mode)
        learner = Learner(config, 3, torch.device("cpu"))
        for size in (config.size_at(0), config.size_at(3)):
            parameters = sample_parameters(4, config.augment, seed=0, step=0)
            data = StepData(images, torch.arange(4) % 3, parameters, size=size)
            losses[mode, size] = learner.step(data, lr=0.01).item()
            if size == 32:
                assert not compiled

    assert compiled
    assert losses["off", 32] == pytest.approx(losses["on", 32], rel=1e-4)
    assert losses["off", 64] == pytest.approx(losses["on", 64], rel=1e-3)


def test_a_batch_that_fits_must_be_validated_as_well(cache, monkeypatch):
    """`--batch-size auto` halves again where the step fits, and the validation does not."""
    validated = []
    real = Learner.evaluate

    def evaluate(self, loader):
        validated.append(loader.num_photos)
        if loader.num_photos > 8:
            raise torch.OutOfMemoryError("faked")
        return real(self, loader)

    monkeypatch.setattr(Learner, "evaluate", evaluate)
    config = TrainConfig(image_size=32, batch_size=32, compile="off")

    found = find_micro_batch(config, cache, "cpu", ALONE)

    assert 8 == found.micro_batch_size
    assert [32, 16, 8] == validated


@pytest.mark.parametrize(("settings", "warned"), [({"batch_size": 16}, False),
                         ({"batch_size": 8}, True),
                         ({"batch_size": 16, "micro_batch_size": 8}, True)])  # fmt: skip
def test_few_photos_for_batchnorm_are_warned_of(cache, tmp_path, capsys, settings, warned):
    """Its statistics are those of a micro-batch of one process."""
    config = TrainConfig(image_size=32, epochs=1, compile="off", **settings)

    train(config, cache, tmp_path / "run", device="cpu")

    assert warned == ("BatchNorm takes its statistics from 8 photos" in capsys.readouterr().err)
