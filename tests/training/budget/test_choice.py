"""What is chosen for a time: pure functions over costs and curves."""

from itertools import pairwise, starmap

import pytest

from training.budget.choice import Costs, choose, epochs_s
from training.budget.deadline import Deadline, seconds_of, shown
from training.budget.frontier import MOST_EPOCHS, Curve, MeasuredRun, frontier
from training.budget.plan import chosen_settings, large_batch
from training.config import TrainConfig
from training.errors import ConfigError
from training.recipes import scratch

CURVES = tuple(
    Curve(side, 1000, tuple(starmap(MeasuredRun, runs)))
    for side, runs in (
        (64, ((10, 0.5, 0), (20, 0.6, 0), (100, 0.65, 0))),
        (96, ((10, 0.45, 0), (20, 0.62, 0), (100, 0.75, 0))),
    )
)
PHOTOS = {"num_train": 1000, "num_val": 500}


def costs(side: int, photo_s: float, once_s: float = 5.0, **settings: object) -> Costs:
    """Return the costs of a side whose photos take as long in every epoch."""
    return Costs(
        overrides={"image_size": side, **settings}, smallest_s=photo_s, largest_s=photo_s,
        val_s=photo_s / 3, epoch_s=0.0, once_s=once_s,
    )  # fmt: skip


SIDES = (costs(64, 0.003), costs(96, 0.006))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1800), ("1h30m", 5400), (" 2H ", 7200), ("0.5m", 30), ("1h5s", 3605)],
)
def test_durations_are_read(text, seconds):
    """Hours, minutes and seconds, any of them, also as decimal fractions."""
    assert seconds == seconds_of(text)


@pytest.mark.parametrize("text", ["", "30", "half an hour", "30 min", "-5m", "1m1h", "0m", "9999h"])
def test_what_is_no_duration_is_refused(text):
    """The message repeats what was written, and says how it is written."""
    with pytest.raises(ConfigError, match=r"no duration: write|longer than nothing"):
        seconds_of(text)


def test_durations_are_shown_as_people_say_them():
    """No more digits than matter."""
    assert ["59 s", "1 min", "29 min 59 s", "2 h"] == [shown(s) for s in (59, 60, 1799, 7201)]


@pytest.mark.parametrize("within_s", [60, 300, 1200])
def test_the_choice_fits_and_hardly_less_would(within_s):
    """The run ends in the time, and two epochs more would not."""
    best, _ = choose(scratch(), within_s, SIDES, CURVES, **PHOTOS)

    assert best.run_s <= within_s
    side = SIDES[best.config.image_size == 96]
    longer = best.config.with_overrides({"epochs": best.config.epochs + 2})
    assert side.once_s + epochs_s(longer, side, **PHOTOS) > within_s * 0.95


def test_little_time_goes_to_small_photos_and_much_to_large_ones():
    """What pays most changes where the curves cross."""
    short, _ = choose(scratch(), 60, SIDES, CURVES, **PHOTOS)
    long, others = choose(scratch(), 1200, SIDES, CURVES, **PHOTOS)

    assert (64, 96) == (short.config.image_size, long.config.image_size)
    assert long.promise == pytest.approx(0.75)
    assert [64] == [other.config.image_size for other in others]


def test_what_is_given_is_kept():
    """So many epochs and no others; a single side is the only candidate."""
    best, _ = choose(scratch(), 600, SIDES, CURVES, epochs=40, **PHOTOS)
    one, others = choose(scratch(), 600, SIDES[:1], CURVES, **PHOTOS)

    assert 40 == best.config.epochs
    assert best.config.image_size == 96
    assert (64, []) == (one.config.image_size, others)


def test_a_time_that_is_too_short_is_refused_with_the_time_it_takes():
    """One epoch of the smallest side takes 1000 x 0.003 + 500 x 0.001 + 5 s."""
    with pytest.raises(ConfigError, match=r"8 s are left .* one epoch at 64 px take 8 s"):
        choose(scratch(), 8.4, SIDES, CURVES, **PHOTOS)
    with pytest.raises(ConfigError, match=r"40 epochs at 64 px take .*fewer --epochs"):
        choose(scratch(), 60, SIDES, CURVES, epochs=40, **PHOTOS)


def test_more_epochs_than_were_measured_are_not_promised():
    """With time for thousands it ends at the most that were ever measured."""
    best, _ = choose(scratch(), 1e6, SIDES, CURVES, **PHOTOS)
    assert MOST_EPOCHS == best.config.epochs


def test_growing_photos_are_counted_at_the_sides_they_have():
    """`scratch` begins with smaller photos, which are cheaper; each epoch saves a checkpoint."""
    config = scratch().with_overrides({"image_size": 96, "epochs": 6})
    growing = Costs(overrides={}, smallest_s=0.001, largest_s=0.003, val_s=0, epoch_s=2, once_s=0)

    low, high = config.size_at(0), 96
    expected = sum(
        0.001 + 0.002 * (config.size_at(epoch) ** 2 - low**2) / (high**2 - low**2)
        for epoch in range(6)
    )
    assert epochs_s(config, growing, 1000, 500) == pytest.approx(1000 * expected + 6 * 2)


def test_the_measured_curves_rise():
    """More photos seen promise more at every side; between two runs lies what is between them."""
    for curve in frontier():
        for few, more in pairwise(curve.runs):
            assert few.epochs < more.epochs
            between = curve.num_photos * (few.epochs * more.epochs) ** 0.5
            assert few.top1 < curve.promise(between) < more.top1
        assert 0 <= curve.promise(1) < curve.promise(1e12) == curve.runs[-1].top1


def test_a_large_batch_needs_enough_steps_and_moves_nothing_that_was_given():
    """It is that of a GPU: as large as leaves 64 steps an epoch."""
    config = scratch()
    found = large_batch(config, {}, num_train=10_000)

    assert 128 == found["batch_size"]
    assert found["optimizer.lr"] == pytest.approx(0.2)
    assert found["optimizer.ema"] == pytest.approx(0.998**4)
    assert {} == large_batch(config, {}, num_train=2610)
    assert {} == large_batch(config, {"optimizer.lr": "0.1"}, num_train=10_000)


def test_what_was_chosen_can_be_given_again():
    """A run that goes on gets the very settings that it began with."""
    best, _ = choose(scratch(), 600, SIDES, CURVES, **PHOTOS)
    assert best.config == scratch().with_overrides(chosen_settings(best.config))
    assert "epochs" in chosen_settings(TrainConfig())


def test_runs_share_the_time():
    """Three seeds in an hour have 20 minutes each."""
    assert Deadline.of("1h", 3).left_s == pytest.approx(1200, abs=5)
