"""Small and odd runs: few photos, few epochs, a photo left over; and runs of older versions."""

import json
import math

import numpy as np
import pytest
import torch

from training.config import AugmentConfig, SchedulerConfig, TrainConfig
from training.data.augment_parameters import sample_parameters
from training.data.augmentation import augment
from training.data.prepare import prepare
from training.data.sampler import micro_batches
from training.distributed.world import World
from training.errors import ConfigError, RunError, StoppedError
from training.finetuning.search import halvings
from training.loop.batches import require_pairs
from training.loop.schedule import learning_rate
from training.loop.trainer import train
from training.recipes import RECIPES, recipe

PLAIN_VALUES = {"crop_area": 1, "flip": 0, "brightness": 0, "contrast": 0, "saturation": 0}


@pytest.mark.usefixtures("thin")
@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
@pytest.mark.parametrize("micro", [0, 2])
def test_fewer_photos_than_an_even_batch_are_mixed(folder, tmp_path, kind, micro):
    """Five photos are a batch of five: two pairs are mixed, the fifth is not, and nothing fails."""
    photos = folder({"train/a": 2, "train/b": 3, "val/a": 1, "val/b": 1})
    cache = prepare(photos, 32, cache_root=tmp_path / "cache")
    config = TrainConfig(image_size=32, epochs=2, batch_size=8, micro_batch_size=micro, threads=1)

    result = train(
        config.with_overrides({f"augment.{kind}": 1}), cache, tmp_path / "r", device="cpu"
    )

    assert 2 == result.epochs
    assert math.isfinite(result.val_loss)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_the_last_of_an_odd_number_is_left_as_it_is(kind):
    """Black and white neighbours are mixed, and the photo without a neighbour keeps its colour."""
    images = torch.zeros(5, 37, 37, 3, dtype=torch.uint8)
    images[1::2] = 255
    config = AugmentConfig(**PLAIN_VALUES, **{kind: 1.0})

    pixels, _ = augment(images, 32, 32, config, sample_parameters(5, config, seed=0, step=0))

    assert (pixels[1:4:2] != 255).any()
    assert (pixels[0:4:2] != 0).any()
    assert (pixels[4] == 0).all()


@pytest.mark.usefixtures("thin")
def test_a_photo_that_is_left_over_joins_the_photos_before_it(folder, tmp_path):
    """BatchNorm cannot learn from one photo: of five in twos, the last part has three."""
    assert [slice(0, 2), slice(2, 5)] == micro_batches(5, 2)
    assert [slice(0, 4), slice(4, 6)] == micro_batches(6, 4)
    assert [slice(0, 3)] == micro_batches(3, 0)
    photos = folder({"train/a": 2, "train/b": 3, "val/a": 1, "val/b": 1})
    cache = prepare(photos, 32, cache_root=tmp_path / "cache")

    config = TrainConfig(image_size=32, epochs=1, batch_size=8, micro_batch_size=2, threads=1)

    assert 1 == train(config, cache, tmp_path / "r", device="cpu").epochs


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"micro_batch_size": 1}, "micro_batch_size must be 2 or more"),
        ({"micro_batch_size": 3, "augment.mixup": 1}, "micro_batch_size must be even"),
        ({"batch_size": 9, "augment.cutmix": 1}, "must be even"),
    ],
)
def test_a_batch_that_cannot_be_cut_is_refused_at_the_start(settings, why):
    """Parts of one photo, and pairs cut in two, are said before anything is loaded."""
    with pytest.raises(ConfigError, match=why):
        TrainConfig(batch_size=12).with_overrides(settings)


@pytest.mark.parametrize(
    ("settings", "size", "why"),
    [
        ({"batch_size": 4}, 4, "1 photos at a time.*--batch-size 8 or more"),
        ({"batch_size": 16, "micro_batch_size": 4}, 8, "0 photos at a time"),
        ({"batch_size": 12, "augment.mixup": 1}, 4, "3 photos at a time.*divided by 8"),
    ],
)
def test_processes_with_too_few_photos_each_are_refused(settings, size, why):
    """Each process learns from two photos or more at a time, and mixes whole pairs."""
    config = TrainConfig().with_overrides(settings)

    with pytest.raises(ConfigError, match=why):
        require_pairs(config, config.batch_size, World(size=size))


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_length_of_a_recipe_uses_its_augmentation(name):
    """The last epochs without heavy augmentation are a share: never all of a short run."""
    for epochs in (1, 2, 4, 5, 10, 36, 50, 200):
        config = recipe(name).with_overrides({"epochs": epochs})
        late = [config.is_late(epoch) for epoch in range(epochs)]
        assert not late[0]
        assert round(config.augment.off_share * epochs) == sum(late)
        assert sorted(late) == late
    assert all(
        not recipe("finetune").with_overrides({"epochs": epochs}).is_late(0)
        for epochs, _ in halvings(12, 7)
    )


@pytest.mark.parametrize("name", ["cosine", "step"])
@pytest.mark.parametrize("steps_per_epoch", [0.7, 1, 1.3, 4, 81.5625])
def test_no_warm_up_goes_above_the_peak(name, steps_per_epoch):
    """Also one shorter than a step, or no whole number of steps."""
    for warmup in (0.01, 0.1, 0.5, 1, 2):
        scheduler = SchedulerConfig(name=name, warmup_epochs=warmup)
        config = TrainConfig(epochs=10, scheduler=scheduler)
        steps = range(int(10 * steps_per_epoch))
        rates = [learning_rate(config, step, steps_per_epoch) for step in steps]
        assert max(rates) <= config.optimizer.lr
        assert rates[0] > 0


def test_cutmix_has_random_numbers_of_its_own():
    """Where a rectangle is erased says nothing about where CutMix puts another one."""
    config = AugmentConfig(cutmix=1.0, erasing=1.0)

    parameters = sample_parameters(2000, config, seed=0, step=0)

    for column in parameters.uniform.T:
        for axis in (0, 1):
            together = np.corrcoef(column.numpy(), parameters.corner[:, axis].numpy())[0, 1]
            assert abs(together) < 0.1
    plain = sample_parameters(2000, AugmentConfig(erasing=1.0), seed=0, step=0)
    assert torch.equal(plain.uniform, parameters.uniform)


def older(run_dir) -> None:
    """Let a run look as one that the version before began."""
    path = run_dir / "config.json"
    about = json.loads(path.read_text())
    share = about["config"]["augment"].pop("off_share")
    about["config"]["augment"]["off_epochs"] = round(share * about["config"]["epochs"])
    path.write_text(json.dumps({**about, "format": 3}))


def stopped(config, cache, run_dir, steps: int) -> None:
    """Begin a run and stop it after so many steps."""
    stops = iter([False] * steps)
    with pytest.raises(StoppedError):
        train(config, cache, run_dir, device="cpu", should_stop=lambda: next(stops, True))


def test_a_run_of_the_version_before_goes_on_the_same(cache, tmp_path, thin):
    """Its number of epochs without augmentation is the share that it was."""
    config = TrainConfig(image_size=32, epochs=5, batch_size=16, threads=1).with_overrides(
        {"augment.trivial": 0.5, "augment.erasing": 0.5, "augment.off_share": 0.4}
    )
    plain = train(config, cache, tmp_path / "plain", device="cpu")
    stopped(config, cache, tmp_path / "old", 7)
    older(tmp_path / "old")
    there = json.loads((tmp_path / "old" / "config.json").read_text())["config"]

    result = train(TrainConfig.from_dict(there), cache, tmp_path / "old", device="cpu")

    assert plain.val_loss == result.val_loss


@pytest.mark.parametrize(
    ("settings", "steps", "why"),
    [
        ({"augment.cutmix": 1}, 2, "CutMix drew other random numbers"),
        ({"batch_size": 14}, 2, "the last step of its warm-up lay above the peak"),
    ],
)
def test_a_run_that_would_go_on_otherwise_is_refused(cache, tmp_path, settings, steps, why):
    """What this version does otherwise is said, with what to do."""
    config = TrainConfig(image_size=32, epochs=5, batch_size=16, threads=1)
    config = config.with_overrides(settings)
    stopped(config, cache, tmp_path / "old", steps)
    older(tmp_path / "old")

    with pytest.raises(RunError, match=f"another version.*{why}.*another --run"):
        train(config, cache, tmp_path / "old", device="cpu")
