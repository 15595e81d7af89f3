"""Augmentation, schedule, configuration and checkpoints: the parts that make a run exact."""

import numpy as np
import pytest
import torch

from training import checkpoint
from training.augment import augment
from training.config import AugmentConfig, SchedulerConfig, TrainConfig
from training.errors import ConfigError, RunError
from training.recipes import recipe
from training.schedule import learning_rate

PLAIN = AugmentConfig(crop_area=1, flip=0, brightness=0, contrast=0, saturation=0)


def batch(number: int = 8, side: int = 37) -> torch.Tensor:
    """Return uint8 pictures of noise."""
    return torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (number, side, side, 3), dtype=np.uint8)
    )


def test_augmentation_is_a_function_of_seed_and_step():
    """The same seed and step give the same pixels; another step gives others."""
    config = AugmentConfig()

    first = augment(batch(), 32, config, seed=1, step=5)

    assert (8, 3, 32, 32) == tuple(first.shape)
    assert torch.equal(first, augment(batch(), 32, config, seed=1, step=5))
    assert not torch.equal(first, augment(batch(), 32, config, seed=1, step=6))
    assert not torch.equal(first, augment(batch(), 32, config, seed=2, step=5))
    assert first.min() >= 0
    assert first.max() <= 255


def test_each_photo_has_its_own_augmentation():
    """Equal photos in a batch come out different."""
    same = batch(1).expand(6, -1, -1, -1)

    out = augment(same, 32, AugmentConfig(), seed=0, step=0)

    assert 6 == len({photo.numpy().tobytes() for photo in out})


def test_no_augmentation_gives_the_validation_pixels():
    """With everything off, training sees the centre, as validation and the server do."""
    expected = batch()[:, 2:34, 2:34].permute(0, 3, 1, 2).float()

    assert torch.equal(expected, augment(batch(), 32, PLAIN, seed=0, step=0))


def test_a_full_crop_that_is_flipped_is_the_mirror_image():
    """A flip of probability 1 mirrors every photo and changes nothing else."""
    flipped = augment(batch(), 32, AugmentConfig(**{**PLAIN_VALUES, "flip": 1}), seed=0, step=0)

    assert torch.equal(augment(batch(), 32, PLAIN, seed=0, step=0).flip(-1), flipped)


PLAIN_VALUES = {"crop_area": 1, "flip": 0, "brightness": 0, "contrast": 0, "saturation": 0}


@pytest.mark.parametrize("name", ["none", "step", "cosine", "onecycle"])
def test_learning_rates_follow_their_schedule(name):
    """The rate never exceeds its peak, and reaches it; cosine and one-cycle end near zero."""
    scheduler = SchedulerConfig(name=name, warmup_epochs=1, step_epochs=3)
    config = TrainConfig(epochs=10, scheduler=scheduler)

    rates = [learning_rate(config, step, 10) for step in range(100)]

    assert config.optimizer.lr == pytest.approx(max(rates), rel=0.01)
    assert min(rates) > 0
    assert {"none": 0.05, "step": 0.05e-3}.get(name, 0) == pytest.approx(rates[-1], abs=1e-4)


def test_plateau_drops_when_the_validation_loss_stops_to_fall():
    """After `step_epochs` epochs without a better loss the rate is multiplied by gamma."""
    config = TrainConfig(scheduler=SchedulerConfig(name="plateau", step_epochs=1))

    assert 0.05 == learning_rate(config, 0, 10, [3.0, 2.0, 2.5])
    assert 0.005 == pytest.approx(learning_rate(config, 0, 10, [3.0, 2.0, 2.5, 2.4]))


def test_settings_are_changed_by_name_and_checked():
    """Strings from the command line become values; what is unknown or out of range is named."""
    config = TrainConfig().with_overrides({"optimizer.lr": "0.02", "epochs": "3"})

    assert (0.02, 3) == (config.optimizer.lr, config.epochs)
    assert config == TrainConfig.from_dict(config.to_dict())
    with pytest.raises(ConfigError, match=r"no setting 'lr'; there are .*optimizer\.lr"):
        config.with_overrides({"lr": "1"})
    with pytest.raises(ConfigError, match=r"optimizer\.lr"):
        config.with_overrides({"optimizer.lr": "-1"})
    with pytest.raises(ConfigError, match="there are scratch, baseline"):
        recipe("best")


def test_a_damaged_checkpoint_is_noticed_and_the_one_before_is_taken(tmp_path, capsys):
    """A flipped byte and a cut-off end are found by the checksum, and said aloud."""
    for step in (1, 2, 3):
        tensors = {"x": torch.full((1000,), float(step))}
        checkpoint.save(checkpoint.path_of(tmp_path, step), tensors, {"step": step})
    newest = checkpoint.path_of(tmp_path, 3)
    newest.write_bytes(newest.read_bytes()[:-100])
    second = checkpoint.path_of(tmp_path, 2)
    data = bytearray(second.read_bytes())
    data[-50] ^= 1
    second.write_bytes(data)

    tensors, state = checkpoint.newest_good(tmp_path)

    assert {"step": 1} == state
    assert 1 == tensors["x"][0]
    assert 2 == capsys.readouterr().err.count("is damaged")
    data = bytearray(checkpoint.path_of(tmp_path, 1).read_bytes())
    data[-50] ^= 1
    checkpoint.path_of(tmp_path, 1).write_bytes(data)
    with pytest.raises(RunError, match="every checkpoint"):
        checkpoint.newest_good(tmp_path)
