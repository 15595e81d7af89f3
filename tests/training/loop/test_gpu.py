"""Training on a CUDA device, path by path. Everything here skips where there is none."""

import numpy as np
import pytest
import torch

from training.config import AugmentConfig, TrainConfig
from training.data.augment_parameters import sample_parameters
from training.data.augmentation import augment
from training.data.cache import DatasetCache, Split
from training.data.loader import loader_for, resident_bytes, sharing
from training.data.prepare import prepare
from training.distributed.world import ALONE
from training.errors import DivergedError, StoppedError
from training.loop.batch_finder import find_micro_batch
from training.loop.learner import Learner, StepData
from training.loop.optimizer import optimizer_for
from training.loop.run import Run
from training.loop.state import restore, tensors_of
from training.loop.trainer import train
from training.model.resnet import build
from training.runs import checkpoint

pytestmark = [
    pytest.mark.gpu,
    # Drivers and compilers warn of much that is no fault of a test.
    pytest.mark.filterwarnings("default"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

CUDA = torch.device("cuda", 0)
EVERYTHING = {"rotation": 20, "trivial": 0.7, "erasing": 0.5, "mixup": 0.4, "cutmix": 1.0}


@pytest.fixture(scope="module")
def cache(dishes, tmp_path_factory) -> DatasetCache:
    """Three drawn dishes at 32 px."""
    return prepare(dishes, 32, cache_root=tmp_path_factory.mktemp("gpu"))


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
    with sharing(cache.splits, CUDA):
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


ALL_ON = {"optimizer.name": "adamw", "optimizer.ema": 0.9}
# The first epoch at 32 px, the second at 64, each with gradients that are clipped.
GROWING = {"image_size": 64, "start_scale": 0.5, "optimizer.clip_norm": 1.0}
ALL_ON |= {f"augment.{name}": value for name, value in EVERYTHING.items()}


@pytest.mark.parametrize(
    ("changes", "placement"),
    [
        ({}, "resident"),
        ({}, "pinned"),
        ({"compile": "on"}, "resident"),
        (ALL_ON, "resident"),
        (ALL_ON, "pinned"),
        ({"compile": "graphs", **GROWING}, "resident"),
        ({"compile": "graphs", **GROWING, "micro_batch_size": 8}, "pinned"),
    ],
    ids=[
        "plain",
        "plain-pinned",
        "compiled",
        "everything",
        "everything-pinned",
        "graphs",
        "graphs-in-parts",
    ],
)
def test_a_resumed_run_is_exact(dishes, cache, tmp_path, changes, placement):
    """Deterministic and stopped in the middle of an epoch: the very bits of one never stopped."""
    config = TrainConfig(
        image_size=32, epochs=2, batch_size=16, compile="off", checkpoint_every_steps=2
    ).with_overrides(changes)
    asked = iter(range(100))
    if config.image_size != 32:
        cache = prepare(dishes, config.image_size, cache_root=tmp_path / "cache")
    train(config, cache, tmp_path / "one", device="cuda", placement=placement)
    with pytest.raises(StoppedError):
        train(config, cache, tmp_path / "two", device="cuda", placement=placement,
              should_stop=lambda: next(asked) >= 4)  # fmt: skip
    train(config, cache, tmp_path / "two", device="cuda", placement=placement)

    one, two = ended(tmp_path / "one"), ended(tmp_path / "two")
    assert [] == [name for name in one if not torch.equal(one[name], two[name])]


@pytest.mark.parametrize("compiled", ["off", "graphs"])
def test_a_loss_that_is_not_finite_stops_a_run(cache, tmp_path, compiled):
    """Nobody waits for each loss, and still the first bad step is named, and nothing bad saved."""
    config = TrainConfig(
        image_size=32, epochs=3, batch_size=16, compile=compiled, checkpoint_every_steps=2
    ).with_overrides({"optimizer.lr": 1e30, "scheduler.name": "none"})

    with pytest.raises(DivergedError, match=r"not finite at step \d+ .*learning rate 1e\+30"):
        train(config, cache, tmp_path / "r", device="cuda")

    saved = list((tmp_path / "r" / "checkpoints").glob("step-*"))
    assert all(checkpoint.all_finite(checkpoint.load(path)[0]) for path in saved)


@pytest.mark.parametrize(
    ("changes", "placement"),
    [
        ({}, "resident"),
        (ALL_ON, "resident"),
        ({"optimizer.clip_norm": 1.0, "micro_batch_size": 8}, "resident"),
        ({"compile": "on"}, "resident"),
        ({"compile": "graphs"}, "resident"),
        ({}, "pinned"),
    ],
    ids=["plain", "everything", "clipped-in-parts", "compiled", "graphs", "pinned"],
)
def test_nothing_waits_for_the_device_within_an_epoch(
    cache, tmp_path, monkeypatch, changes, placement
):
    """Whatever makes the host wait for the device is an error from the 1st step to the last."""
    config = TrainConfig(image_size=32, epochs=3, batch_size=8, compile="off", threads=1)
    run_steps, update = Run.train_epoch, Learner.update_average
    epochs, steps = [], []

    def strictly(run: Run) -> None:
        epochs.append(run.epoch)
        # The 1st epoch warms up: it compiles, records graphs and finds kernels.
        if len(epochs) > 1:
            torch.cuda.set_sync_debug_mode("error")
        try:
            run_steps(run)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def counted(learner: Learner, step: int) -> None:
        update(learner, step)
        steps.append(step)
        if (step + 1) % per_epoch == 0:
            # The end: the loss is read, which is to wait.
            torch.cuda.set_sync_debug_mode("default")

    per_epoch = len(cache.splits["train"].targets) // config.batch_size
    monkeypatch.setattr(Run, "train_epoch", strictly)
    monkeypatch.setattr(Learner, "update_average", counted)
    train(config.with_overrides(changes), cache, tmp_path / "r", device="cuda", placement=placement)

    assert [0, 1, 2] == epochs
    assert list(range(3 * per_epoch)) == steps


def test_waiting_for_the_device_is_noticed():
    """Else the test above could not fail."""
    one = torch.ones(1, device=CUDA)
    torch.cuda.set_sync_debug_mode("error")
    try:
        with pytest.raises(RuntimeError, match="synchroniz"):
            one.item()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_validation_is_that_of_a_cpu(cache):
    """The logits of a model agree with a CPU's to fp32's rounding, cuDNN in use."""
    config = TrainConfig(image_size=32, batch_size=16, compile="off")
    ours, theirs = (
        Learner(config, 3, device).evaluate(loader_for(cache.splits["val"], device))
        for device in (torch.device("cpu"), CUDA)
    )

    assert np.allclose(ours.logits, theirs.logits, atol=1e-3)
    assert torch.backends.cudnn.enabled


def test_the_largest_batch_that_fits_is_found(cache):
    """With little memory a huge batch does not fit; `auto` finds one that does."""
    _, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction(min(1.5 * 2**30 / total, 1.0))
    try:
        config = TrainConfig(image_size=32, batch_size=2**14, compile="off")
        found = find_micro_batch(config, cache, "cuda", ALONE)
        learner = Learner(config, 3, CUDA)
        data = StepData(
            torch.zeros(2**14, 37, 37, 3, dtype=torch.uint8, device=CUDA),
            torch.zeros(2**14, dtype=torch.int64, device=CUDA),
            sample_parameters(2**14, config.augment, seed=0, step=0),
            size=32,
        )
        with pytest.raises(torch.OutOfMemoryError):
            learner.step(data, lr=0.1)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)

    assert 2 <= found.micro_batch_size < 2**14
