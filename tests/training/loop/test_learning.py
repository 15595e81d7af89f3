"""Augmentation, schedule, configuration and checkpoints: the parts that make a run exact."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from service.pixels.preprocessing import resize_size
from training.config import AugmentConfig, SchedulerConfig, TrainConfig
from training.data import trivial_augment
from training.data.augment_parameters import sample_parameters
from training.data.augmentation import augment
from training.data.cache import crops_side
from training.errors import ConfigError, RunError
from training.loop.schedule import learning_rate
from training.recipes import recipe
from training.runs import checkpoint

PLAIN_VALUES = {"crop_area": 1, "flip": 0, "brightness": 0, "contrast": 0, "saturation": 0}


def batch(number: int = 8, side: int = 37) -> torch.Tensor:
    """Return uint8 pictures of noise."""
    return torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (number, side, side, 3), dtype=np.uint8)
    )


def augmented(images: torch.Tensor, seed: int = 0, step: int = 0, **settings) -> torch.Tensor:
    """Return pictures of side 32, augmented with the settings given."""
    config = AugmentConfig(**settings)
    parameters = sample_parameters(len(images), config, seed=seed, step=step)
    return augment(images, 32, 32, config, parameters)[0]


def test_augmentation_is_a_function_of_seed_and_step():
    """The same seed and step give the same pixels; another step gives others."""
    first = augmented(batch(), seed=1, step=5)

    assert (8, 3, 32, 32) == tuple(first.shape)
    assert torch.equal(first, augmented(batch(), seed=1, step=5))
    assert not torch.equal(first, augmented(batch(), seed=1, step=6))
    assert not torch.equal(first, augmented(batch(), seed=2, step=5))
    assert first.min() >= 0
    assert first.max() <= 255


EVERYTHING = {"rotation": 20, "trivial": 0.7, "erasing": 0.5, "mixup": 0.4, "cutmix": 1.0}


@pytest.mark.parametrize("settings", [{}, EVERYTHING], ids=["default", "everything"])
def test_each_photo_has_its_own_augmentation(settings):
    """Equal photos in a batch come out different."""
    same = batch(1).expand(32, -1, -1, -1)

    out = augmented(same, **settings)

    assert 32 == len({photo.numpy().tobytes() for photo in out})
    assert out.min() >= 0
    assert out.max() <= 255


def test_a_part_of_a_batch_is_augmented_as_in_the_whole():
    """Whoever computes a part of a batch sees the very pixels that one alone would see."""
    config = AugmentConfig(**EVERYTHING)
    parameters = sample_parameters(8, config, seed=3, step=4)

    whole, shares = augment(batch(), 32, 32, config, parameters)
    part, part_shares = augment(batch()[4:6], 32, 32, config, parameters[4:6])

    assert torch.equal(whole[4:6], part)
    assert torch.equal(shares[4:6], part_shares)


def test_one_ingredient_more_leaves_the_others_as_they_were():
    """Erasing blanks pixels of the same crops: its numbers are its own."""
    plain, erased = augmented(batch()), augmented(batch(), erasing=1.0)

    same = (plain == erased).all(1).flatten(1).float().mean(1)

    assert ((0.5 < same) & (same < 1)).all()


def test_no_augmentation_gives_the_validation_pixels():
    """With everything off, training sees the centre, as validation and the server do."""
    expected = batch()[:, 2:34, 2:34].permute(0, 3, 1, 2).float()

    assert torch.equal(expected, augmented(batch(), **PLAIN_VALUES))


def test_crops_from_larger_squares_are_sharper():
    """Of one photo, crops of a third of its area lose less when they are cut from a larger square.

    Stripes of 4 pixels of 160 are told apart at a side of 46, and hardly at 37.
    """
    stripes = np.zeros((1, 3, 160, 160), np.float32)
    stripes[..., (np.arange(160) // 4) % 2 == 1] = 255
    photo = torch.from_numpy(stripes)
    contrast = {}
    for side in (resize_size(32), crops_side(32)):
        square = F.interpolate(photo, (side, side), mode="bilinear", antialias=True)
        images = square.round().to(torch.uint8).permute(0, 2, 3, 1).expand(16, -1, -1, -1)
        crops = augmented(images, **{**PLAIN_VALUES, "crop_area": 0.35, "sharp_crops": True})
        contrast[side] = float(crops.std())

    assert contrast[crops_side(32)] > 1.2 * contrast[resize_size(32)]


def test_sides_that_shrink_keep_what_crops_lose_nothing_by():
    """Smaller sides in training shrink larger squares, too; who is not augmented has the centre."""
    images = batch(4, crops_side(64))
    config = AugmentConfig(sharp_crops=True, classes=(0,))
    parameters = sample_parameters(4, config, seed=0, step=0)
    chosen = torch.tensor([True, False, True, False])

    for size in (32, 64):
        found, _ = augment(images, size, 64, config, parameters, chosen=chosen)
        whole = images.permute(0, 3, 1, 2).float()
        side = resize_size(size)
        small = F.interpolate(whole, (side, side), mode="bilinear", antialias=True)
        start = (side - size) // 2
        centre = small[..., start : start + size, start : start + size]
        assert torch.equal(found[~chosen], centre[~chosen])
        assert not torch.equal(found[chosen], centre[chosen])


def test_a_full_crop_that_is_flipped_is_the_mirror_image():
    """A flip of probability 1 mirrors every photo and changes nothing else."""
    flipped = augmented(batch(), **{**PLAIN_VALUES, "flip": 1})

    assert torch.equal(augmented(batch(), **PLAIN_VALUES).flip(-1), flipped)


def test_a_rotation_keeps_the_middle_and_moves_the_edge():
    """A turned photo has its own centre, and corners from elsewhere."""
    disc = torch.zeros(64, 37, 37, 3, dtype=torch.uint8)
    disc[:, 16:21, 16:21], disc[:, :, :8] = 200, 90

    turned = augmented(disc, **PLAIN_VALUES, rotation=180)

    assert (turned[:, :, 15:17, 15:17] > 150).all()
    left = turned[:, 0, 12:20, 3].mean(1)
    assert (left > 60).any()
    assert (left < 30).any()


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_a_mixed_photo_is_its_own_share_and_its_neighbours_rest(kind):
    """Black photos beside white ones come out as grey, or as cut, as their share says."""
    images = torch.zeros(64, 37, 37, 3, dtype=torch.uint8)
    images[1::2] = 255
    config = AugmentConfig(**PLAIN_VALUES, **{kind: 1.0})
    parameters = sample_parameters(64, config, seed=0, step=0)

    pixels, share = augment(images, 32, 32, config, parameters)

    brightness = pixels.mean((1, 2, 3)) / 255
    expected = torch.where(torch.arange(64) % 2 == 0, 1 - share, share)
    assert torch.allclose(brightness, expected, atol=1e-5)
    assert 0.3 < share.std() / 0.289 < 3
    two_valued = ((pixels == 0) | (pixels == 255)).all()
    assert two_valued == (kind == "cutmix")
    late = sample_parameters(64, config, seed=0, step=0, late=True)
    assert (augment(images, 32, 32, config, late, late=True)[1] == 1).all()


def test_trivial_operations_do_what_their_names_say():
    """Each of the operations on colour does to a ramp what its paper says."""
    ramp = torch.arange(0, 256, 8).float().expand(1, 3, 32, 32).contiguous()

    def apply(name: str, strength: float) -> torch.Tensor:
        operations = trivial_augment.Operations(
            torch.tensor([trivial_augment.OPERATIONS.index(name)]),
            torch.tensor([abs(strength)]),
            torch.tensor([1.0 if strength >= 0 else -1.0]),
        )
        return operations.apply(ramp.clone())[0, 0, 0]

    line = ramp[0, 0, 0]
    assert torch.equal(255 - line, apply("solarize", 1.0))
    assert torch.equal(line, apply("solarize", 0.0))
    assert {0.0, 64.0, 128.0, 192.0} == set(apply("posterize", 1.0).tolist())
    assert 255 == apply("autocontrast", 0.0).max()
    assert torch.allclose(apply("brightness", -0.5), line * (1 - 0.99 * 0.5))
    assert apply("contrast", -1.0).std() < 0.02 * line.std()
    equal = apply("equalize", 0.0)
    assert (0, 255) == (equal.min(), equal.max())
    assert torch.allclose(equal.diff(), equal.diff().mean(), atol=0.1)
    assert torch.allclose(apply("saturation", -1.0), line, atol=0.5)


def test_trivial_operations_leave_colours_alone_where_they_are_told_to():
    """A grey photo stays as it is, whatever moves; with colours it does not."""
    grey = torch.full((64, 37, 37, 3), 100, dtype=torch.uint8)
    settings = {**PLAIN_VALUES, "trivial": 1.0}

    moved = augmented(grey, **settings, trivial_colours=False)
    assert torch.allclose(moved, torch.full_like(moved, 100.0), atol=1e-3)
    assert not torch.allclose(augmented(grey, **settings), moved, atol=1.0)

    noise = batch(1).expand(64, -1, -1, -1)
    found = augmented(noise, **settings, trivial_colours=False)
    assert 40 < len({photo.numpy().tobytes() for photo in found})


def test_sizes_grow_over_the_first_two_thirds():
    """Progressive resizing begins small, ends at the training size, in steps of 16."""
    config = TrainConfig(epochs=9, image_size=96, start_scale=0.5)

    sizes = [config.size_at(epoch) for epoch in range(9)]

    assert [48, 64, 64, 64, 80, 96, 96, 96, 96] == sizes
    assert 80 == TrainConfig(image_size=96, train_scale=0.8).size_at(0)
    assert 70 == TrainConfig(image_size=70).size_at(0)
    with pytest.raises(ConfigError, match="start_scale"):
        TrainConfig().with_overrides({"start_scale": 2})
    with pytest.raises(ConfigError, match="must divide batch_size"):
        TrainConfig().with_overrides({"micro_batch_size": 30})


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
    hint = r"no setting 'lr'; did you mean optimizer\.lr\?.*there are"
    with pytest.raises(ConfigError, match=hint):
        config.with_overrides({"lr": "1"})
    with pytest.raises(ConfigError, match=r"optimizer\.lr"):
        config.with_overrides({"optimizer.lr": "-1"})
    with pytest.raises(ConfigError, match="there are scratch, long, baseline"):
        recipe("best")


def test_a_damaged_checkpoint_is_noticed_and_the_one_before_is_taken(tmp_path, capsys):
    """No content, a cut-off end and a flipped byte are found by the checksum, and said aloud."""
    for step in (1, 2, 3, 4):
        tensors = {"x": torch.full((1000,), float(step))}
        checkpoint.save(checkpoint.path_of(tmp_path, step), tensors, {"step": step})
    checkpoint.path_of(tmp_path, 4).write_bytes(b"")
    third = checkpoint.path_of(tmp_path, 3)
    third.write_bytes(third.read_bytes()[:-100])
    second = checkpoint.path_of(tmp_path, 2)
    data = bytearray(second.read_bytes())
    data[-50] ^= 1
    second.write_bytes(data)

    assert checkpoint.path_of(tmp_path, 1).name == checkpoint.newest_good(tmp_path)

    tensors, state = checkpoint.load(checkpoint.path_of(tmp_path, 1))
    assert {"step": 1} == state
    assert 1 == tensors["x"][0]
    assert 3 == capsys.readouterr().err.count("is damaged")
    data = bytearray(checkpoint.path_of(tmp_path, 1).read_bytes())
    data[-50] ^= 1
    checkpoint.path_of(tmp_path, 1).write_bytes(data)
    with pytest.raises(RunError, match="every checkpoint"):
        checkpoint.newest_good(tmp_path)
