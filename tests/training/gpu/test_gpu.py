"""Batches, augmentation and steps on a CUDA device. Everything here skips where there is none."""

import numpy as np
import pytest
import torch

from tests.training.gpu.steps import CUDA, EVERYTHING, apart, split, steps
from training.config import AugmentConfig, TrainConfig
from training.data.augment_parameters import sample_parameters
from training.data.augmentation import augment
from training.data.cache import Split
from training.data.loader import loader_for, resident_bytes, sharing
from training.loop.optimizer import optimizer_for
from training.loop.state import restore, tensors_of
from training.model.resnet import build

pytestmark = [
    pytest.mark.gpu,
    # Drivers and compilers warn of much that is no fault of a test.
    pytest.mark.filterwarnings("default"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("placement", ["resident", "pinned"])
def test_every_batch_is_the_photos_that_were_asked_for(placement):
    """Both placements give the rows of each batch, while the device is busy with the one before."""
    photos = split()
    loader = loader_for(photos, CUDA, placement)
    rows = [np.random.default_rng(step).permutation(300)[:64] for step in range(12)]
    busy = torch.randn(2048, 2048, device=CUDA)

    seen = []
    for images, targets in loader.batches(rows):
        busy = busy @ busy / 64
        seen.append(((images.float().sum((1, 2, 3))), targets.clone()))

    for chosen, (sums, targets) in zip(rows, seen, strict=True):
        expected = photos.images[chosen].astype(np.int64).sum((1, 2, 3))
        assert expected.tolist() == sums.long().cpu().tolist()
        assert photos.targets[chosen].tolist() == targets.cpu().tolist()


@pytest.mark.parametrize("placement", ["resident", "pinned"])
def test_features_keep_their_fractions(placement):
    """What frozen parts make of photos is float32 on the device, to the last bit."""
    features = np.random.default_rng(0).normal(size=(40, 8, 2, 2)).astype(np.float32)
    loader = loader_for(Split(features, np.arange(40), ("",) * 40), CUDA, placement)

    ((seen, _),) = loader.batches([np.arange(40)[::-1].copy()])

    assert np.array_equal(features[::-1], seen.cpu().numpy())


def test_photos_that_fit_lie_on_the_device_by_themselves():
    """`auto` chooses resident for what fits, and says what it will take."""
    photos = split()

    assert "resident on" in loader_for(photos, CUDA).description
    assert photos.images.nbytes == resident_bytes(photos, CUDA)


def test_runs_share_one_resident_copy(cache):
    """All runs of a tuning worker read the same copy of the photos; afterwards it is freed."""
    with sharing(cache.splits.values(), CUDA):
        shared = loader_for(cache.splits["train"], CUDA)
        assert shared is loader_for(cache.splits["train"], CUDA)
    assert shared is not loader_for(cache.splits["train"], CUDA)


def test_augmentation_draws_the_same_pixels():
    """With everything on, the device makes the pixels that a CPU makes, but for rounding."""
    config = AugmentConfig(**EVERYTHING)
    images = torch.from_numpy(np.array(split(64).images))
    parameters = sample_parameters(64, config, seed=0, step=0)

    ours, share = augment(images, 32, 32, config, parameters)
    theirs, other = augment(images.to(CUDA), 32, 32, config, parameters)

    assert torch.allclose(share, other.cpu(), atol=1e-5)
    assert (ours - theirs.cpu()).abs().mean() < 0.2


def test_a_step_in_fp32_is_that_of_a_cpu():
    """The first loss and the weights after a step agree: nothing is rounded to TF32."""
    cpu, ours = steps(torch.device("cpu"), 1, precision="fp32")
    gpu, theirs = steps(CUDA, 1, precision="fp32")

    assert ours[0] == pytest.approx(theirs[0], rel=1e-4)
    assert apart(cpu, gpu) < 2e-5


def test_bf16_is_near_fp32():
    """`auto` takes bf16 here, with losses near those of fp32."""
    learner, bf16 = steps(CUDA)
    _, fp32 = steps(CUDA, precision="fp32")

    assert "bf16" == learner.precision
    assert bf16 == pytest.approx(fp32, rel=0.05)


@pytest.mark.parametrize(("mode", "micro"), [("on", 0), ("graphs", 0), ("graphs", 32)])
def test_compiled_steps_are_the_eager_ones(mode, micro):
    """Compiled, as graphs too, with another rate each step and gradients that add up."""
    eager, _ = steps(CUDA, 4, precision="fp32", micro_batch_size=micro)
    fast, _ = steps(CUDA, 4, precision="fp32", micro_batch_size=micro, compile=mode)

    assert fast.compiled
    # At the first step's rate throughout they would be 3e-4 apart.
    assert apart(eager, fast) < 1e-4


def test_each_group_has_a_rate_of_its_own():
    """The rate is a tensor on the device, fused, and setting one group's leaves the other's."""
    for name in ("sgd", "adamw"):
        config = TrainConfig().with_overrides({"optimizer.name": name})
        first, second = optimizer_for(config, build(3, seed=0).to(CUDA), CUDA).param_groups
        first["lr"].fill_(7)

        assert "cuda" == first["lr"].device.type
        assert first["fused"]
        assert second["lr"].item() == pytest.approx(config.optimizer.lr)


def test_convolutions_have_their_channels_innermost():
    """Weights and their momentum are laid out for tensor cores, after a resume as well."""
    learner, _ = steps(CUDA)
    restore(learner, tensors_of(learner))

    convolution = learner.model.conv1.weight
    momentum = learner.optimizer.state[convolution]["momentum_buffer"]
    assert convolution.is_contiguous(memory_format=torch.channels_last)
    assert momentum.is_contiguous(memory_format=torch.channels_last)
    assert "cuda" == momentum.device.type
