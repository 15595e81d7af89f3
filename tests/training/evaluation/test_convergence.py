"""Where growth slows, settles and ends is found on curves whose answer is known."""

import math

import numpy as np
import pytest

from training.evaluation.convergence import measure


def test_the_knee_of_two_straight_lines_is_where_they_meet():
    """Steep to epoch 12, then flat to epoch 50: the knee is epoch 12."""
    curve = [0.05 * e for e in range(1, 13)] + [0.6 + 0.001 * e for e in range(1, 39)]

    found = measure(curve, 2000)

    assert found is not None
    assert 12 == found.knee


@pytest.mark.parametrize(("epochs", "tau"), [(50, 5.0), (50, 8.0), (100, 10.0), (30, 4.0)])
def test_the_knee_of_exponential_growth_is_where_its_slope_is_the_mean_slope(epochs, tau):
    """For a = A(1 - exp(-e/τ)) the knee follows by calculus, and is found to the epoch."""
    curve = [0.8 * (1 - math.exp(-e / tau)) for e in range(1, epochs + 1)]
    mean_slope = (curve[-1] - curve[0]) / (epochs - 1)
    expected = -tau * math.log(mean_slope * tau / 0.8)

    found = measure(curve, 2000)

    assert found is not None
    assert abs(expected - found.knee) <= 0.5


@pytest.mark.parametrize("seed", range(8))
def test_noise_moves_the_knee_little(seed):
    """Swings of one point, as 1,800 photos make them, move the knee by a tenth of the run."""
    random = np.random.default_rng(seed)
    clean = np.array([0.75 * (1 - math.exp(-e / 6)) for e in range(1, 51)])

    noisy = measure(np.clip(clean + random.normal(0, 0.01, 50), 0, 1).tolist(), 1800)
    exact = measure(clean.tolist(), 1800)

    assert noisy is not None
    assert exact is not None
    assert noisy.knee is not None
    assert exact.knee is not None
    assert abs(noisy.knee - exact.knee) <= 5
    # They are what chance explains, so they do not keep the run from settling.
    assert noisy.settled is not None
    assert noisy.settled <= 25


def test_settling_is_the_epoch_after_the_last_wide_swing():
    """Up and down by ten points to epoch 20, by a tenth of a point after: settled at 20 or 21."""
    curve = [0.5 + 0.05 * (-1) ** e for e in range(1, 21)]
    curve += [0.5 + 0.0005 * (-1) ** e for e in range(21, 51)]

    found = measure(curve, 10_000)

    assert found is not None
    # The window that begins at 20 still holds the last wide swing.
    assert 21 == found.settled
    assert found.converged is not None
    assert found.converged <= 21


def test_convergence_is_where_the_final_level_is_reached_for_good():
    """A ramp to 0.7 at epoch 30 of 60 converges within one window of epoch 30."""
    curve = [0.1 + 0.02 * e for e in range(1, 31)] + [0.7] * 30

    found = measure(curve, 5000)

    assert found is not None
    assert found.level == pytest.approx(0.7)
    # δ is 1.3 points: the mean of six epochs enters it while the last of them are level already.
    assert 27 <= found.converged <= 30
    assert found.budget == max(found.knee, found.settled)


def test_a_run_that_still_rises_has_neither_knee_nor_convergence():
    """Steady growth to the last epoch: the budget is the whole run, and the advice says why."""
    found = measure([0.01 * e for e in range(1, 51)], 5000)

    assert found is not None
    assert (None, None) == (found.knee, found.converged)
    assert 50 == found.budget
    assert "still growing" in found.advice()


def test_a_run_that_still_swings_is_told_so():
    """Wide swings to the end: not settled, and the budget is the whole run."""
    curve = [min(0.6, 0.1 * e) + 0.05 * (-1) ** e for e in range(1, 41)]

    found = measure(curve, 5000)

    assert found is not None
    assert found.settled is None
    assert 40 == found.budget
    assert "apart" in found.advice()


def test_what_chance_explains_is_not_a_swing():
    """Swings of 4 points are wide on 5,000 photos and nothing on 200."""
    curve = [0.6 + 0.02 * (-1) ** e for e in range(1, 31)]

    wide, nothing = measure(curve, 5000), measure(curve, 200)

    assert wide is not None
    assert nothing is not None
    assert wide.settled is None
    assert 1 == nothing.settled


@pytest.mark.parametrize("curve", [[], [0.5], [0.1, 0.2, 0.3, 0.4]])
def test_too_few_epochs_measure_nothing(curve):
    """Four points are no curve."""
    assert measure(curve, 100) is None


@pytest.mark.parametrize("level", [0.0, 1.0, 0.5])
def test_a_flat_run_has_no_knee_and_is_converged(level):
    """A run that learns nothing, or everything at once, breaks no formula."""
    found = measure([level] * 20, 100)

    assert found is not None
    assert (None, 1, 1) == (found.knee, found.settled, found.converged)


def test_a_value_that_is_no_fraction_is_refused():
    """Percent in place of fractions would make nonsense quietly."""
    with pytest.raises(ValueError, match="fractions"):
        measure([61.0] * 10, 100)


REAL = [
    0.1294,
    0.2661,
    0.3135,
    0.3585,
    0.3682,
    0.4204,
    0.4051,
    0.4558,
    0.4445,
    0.4381,
    0.4582,
    0.4365,
    0.4823,
    0.5217,
    0.5129,
    0.5137,
    0.508,
    0.5458,
    0.5008,
    0.508,
    0.5394,
    0.5402,
    0.5386,
    0.5651,
    0.5667,
    0.5691,
    0.5675,
    0.5683,
    0.5683,
    0.5675,
]
"""Validation top-1 on 1,244 photos of groceries: `hansang train grocery42 --epochs 30
--image-size 32 --threads 1`, a cosine schedule."""


def test_a_real_run_is_judged_as_people_judge_it():
    """Steep to epoch 8, swings until the learning rate has fallen, level from epoch 22 or so on."""
    found = measure(REAL, 1244)

    assert found is not None
    assert 6 <= found.knee <= 10
    assert 11 <= found.settled <= 16
    assert 20 <= found.converged <= 25
    assert found.budget == found.settled
