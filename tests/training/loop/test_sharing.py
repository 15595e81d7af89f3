"""A batch cut into parts, an epoch into batches; what is measured of a finished run."""

import numpy as np
import pytest
import torch

from tests.training.batchnorm import fix_statistics
from training.config import TrainConfig
from training.data.augment_parameters import sample_parameters
from training.data.prepare import prepare
from training.data.sampler import Sampler, class_weights
from training.distributed.world import World
from training.errors import ConfigError, RunError
from training.evaluation.calibration import expected_calibration_error, fit_temperature, softmax
from training.evaluation.intervals import mean_interval, wilson_of
from training.loop.learner import Learner, StepData
from training.loop.trainer import train
from training.model.device import largest_micro_batch
from training.model.resnet import Served, build


def test_a_share_of_a_batch_is_equal_and_complete():
    """The parts of all the ranks are the batch."""
    parts = [World(rank=rank, size=3).part(12) for rank in range(3)]

    assert list(range(12)) == [row for part in parts for row in range(12)[part]]
    with pytest.raises(ConfigError, match="try --batch-size 12"):
        World(size=3).part(13)


def test_gradients_of_parts_add_up_to_those_of_the_batch():
    """A step in micro-batches is that of the whole batch, but for BatchNorm's statistics."""
    config = TrainConfig(image_size=32, batch_size=8, precision="fp32")
    images = torch.randint(0, 256, (8, 37, 37, 3), dtype=torch.uint8)
    targets = torch.arange(8) % 3
    weights = []
    for micro in (0, 2):
        in_parts = config.with_overrides({"micro_batch_size": micro})
        learner = Learner(in_parts, 3, torch.device("cpu"))
        fix_statistics(learner)
        parameters = sample_parameters(8, config.augment, seed=0, step=0)
        loss = learner.step(StepData(images, targets, parameters, size=32), lr=0.1)
        weights.append((loss, learner.model.fc.weight.detach().clone()))

    assert torch.allclose(weights[0][0], weights[1][0], rtol=1e-5)
    assert torch.allclose(weights[0][1], weights[1][1], atol=1e-5)


def test_the_largest_part_that_fits_is_found_by_halving():
    """A device with room for 20 photos computes 64 in parts of 16; too small a one is told."""
    assert 16 == largest_micro_batch(64, lambda size: size <= 20)
    assert 64 == largest_micro_batch(64, lambda _: True)
    with pytest.raises(RunError, match="no memory for 6 photos"):
        largest_micro_batch(24, lambda _: False)


@pytest.mark.parametrize(
    ("owner", "name"),
    [(Learner, "_loss"), (torch.optim.SGD, "step"), (Learner, "evaluate"), (Learner, "__init__")],
)
def test_out_of_memory_names_what_to_try(dishes, tmp_path, monkeypatch, owner, name):
    """Wherever memory ends, it is an error for people, with a size to try."""
    cache = prepare(dishes, 32, cache_root=tmp_path / "cache")

    def too_large(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(owner, name, too_large)
    config = TrainConfig(image_size=32, batch_size=24, epochs=1, threads=1)
    with pytest.raises(RunError, match=r"--batch-size auto, or --set micro_batch_size=12"):
        train(config, cache, tmp_path / "r", device="cpu")


def test_no_photo_is_left_out_of_the_line_of_epochs():
    """Batches of 4 out of epochs of 10: after two epochs each photo was seen twice."""
    sampler = Sampler(np.zeros(10, np.int64), 4, seed=0)

    seen = np.concatenate([sampler.rows(step) for step in range(sampler.steps_before(2))])

    assert [0, 2, 5] == [sampler.steps_before(epoch) for epoch in range(3)]
    assert [2] * 10 == np.bincount(seen).tolist()
    assert sorted(seen[:10]) == list(range(10))


def test_rare_classes_are_drawn_more_often():
    """With power 1 every class comes equally often, give or take one a photo."""
    targets = np.array([0] * 80 + [1] * 20)
    sampler = Sampler(targets, 10, seed=0, weights=class_weights(targets, 2, 1.0))

    drawn = np.concatenate([sampler.rows(step) for step in range(10)])

    assert 50 == pytest.approx(np.bincount(targets[drawn])[0], abs=1)
    assert np.bincount(drawn, minlength=100)[80:].min() >= 2


def test_intervals_are_the_tabulated_ones():
    """Wilson's and Student's intervals agree with SciPy 1.17's and with printed tables."""
    for right, photos, low, high in [
        (0, 10, 0.0, 0.277532800), (773, 1244, 0.594094230, 0.647923695),
        (1764, 1764, 0.997827034, 1.0),
    ]:  # fmt: skip
        assert (low, high) == pytest.approx(wilson_of(right, photos), abs=1e-8)
    assert (2.0, pytest.approx(4.302653 / 3**0.5, rel=1e-6)) == mean_interval([1, 2, 3])


def test_a_temperature_mends_confidence_and_leaves_the_answers():
    """Logits blown up threefold get a temperature of three, and calibration follows."""
    random = np.random.default_rng(0)
    logits = random.normal(size=(4000, 5)).astype(np.float32) * 1.5
    targets = np.array([random.choice(5, p=p / p.sum()) for p in softmax(logits)])
    loud = logits * 3

    temperature = fit_temperature(loud, targets)

    assert 3 == pytest.approx(temperature, rel=0.1)
    before = expected_calibration_error(softmax(loud), targets)
    after = expected_calibration_error(softmax(loud, temperature), targets)
    assert after < before / 4
    assert np.allclose(torch.from_numpy(loud).softmax(1).numpy(), softmax(loud), atol=1e-6)


def test_what_is_served_has_the_temperature_and_the_mirror_image():
    """The graph averages logits over a photo and its mirror image, then divides them."""
    model = build(3, seed=0).eval()
    images = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    plain = Served(model).eval()

    with torch.no_grad():
        logits = plain(images).log()
        mirrored = plain(images.flip(2)).log()
        served = Served(model, flip_average=True, temperature=2.0).eval()(images)

    assert torch.allclose(((logits + mirrored) / 4).softmax(1), served, atol=1e-5)


def test_early_stopping_and_class_balance_train(dishes, tmp_path):
    """A run that gets no better ends early; balance and averages run through to a result."""
    cache = prepare(dishes, 32, cache_root=tmp_path / "cache")
    config = TrainConfig(
        image_size=32, epochs=30, batch_size=12, early_stopping_epochs=2, threads=1
    )
    config = config.with_overrides(
        {"optimizer.lr": 1e-9, "balance": "sampling", "flip_average": True, "optimizer.ema": 0.9}
    )

    result = train(config, cache, tmp_path / "r", device="cpu")
    balanced = train(
        config.with_overrides({"epochs": 1, "balance": "loss"}), cache, tmp_path / "b", device="cpu"
    )

    assert result.epochs < 30
    assert result.epochs == result.best_epoch + 2
    assert 1 == balanced.epochs
    arrays = np.load(tmp_path / "r" / "predictions-val.npz")
    assert result.val_top1 == (arrays["probabilities"].argmax(1) == arrays["targets"]).mean()
    assert arrays["files"].tolist() == list(cache.splits["val"].files)
