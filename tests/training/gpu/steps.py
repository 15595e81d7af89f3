"""What the tests on a CUDA device share: batches and steps on a device, compared with a CPU's."""

import numpy as np
import torch

from training.config import TrainConfig
from training.data.augment_parameters import sample_parameters
from training.data.cache import Split
from training.loop.learner import Learner, StepData
from training.runs import checkpoint

CUDA = torch.device("cuda", 0)


EVERYTHING = {"rotation": 20, "trivial": 0.7, "erasing": 0.5, "mixup": 0.4, "cutmix": 1.0}


def split(photos: int = 300, side: int = 37) -> Split:
    """Return photos of noise."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (photos, side, side, 3), dtype=np.uint8)
    images.flags.writeable = False  # as a mapped file is
    return Split(images, np.arange(photos) % 3, tuple(map(str, range(photos))))


def steps(device: torch.device, count: int = 3, **changes) -> tuple[Learner, list[float]]:
    """Take steps on fixed photos; return the learner and the losses.

    Steps that are small, on batches that are not: weights move by 3e-4 of themselves in four steps,
    and those that rounding (3e-7) sets apart are 1e-5 apart then. Of 16 photos, at a rate of 0.02,
    they were 1e-2 apart on a CPU: no bound would tell rounding from a fault.
    """
    config = TrainConfig(image_size=32, batch_size=64, compile="off").with_overrides(changes)
    learner = Learner(config, 3, device)
    images = torch.from_numpy(np.array(split(64).images)).to(device)
    targets = (torch.arange(64) % 3).to(device)
    losses = []
    for step in range(count):
        parameters = sample_parameters(64, config.augment, seed=0, step=step)
        data = StepData(images, targets, parameters, size=32)
        loss = learner.step(data, lr=5e-4 / (1 + step))
        learner.update_average(step)
        losses.append(loss.item())
    return learner, losses


def weights(learner: Learner) -> torch.Tensor:
    """Return all weights in a line, on the CPU."""
    return torch.cat([p.detach().flatten().cpu() for p in learner.model.parameters()])


def apart(one: Learner, other: Learner) -> float:
    """Return how far apart two learners' weights are, relative to their length."""
    a, b = weights(one), weights(other)
    return float((a - b).norm() / a.norm())


def ended(run) -> dict[str, torch.Tensor]:
    """Return the tensors of a run's newest checkpoint."""
    return checkpoint.load(run / "checkpoints" / checkpoint.newest_good(run / "checkpoints"))[0]
