"""The temperature that a released file divides its logits by."""

import numpy as np
import pytest

from training.evaluation.calibration import cross_entropy, fit_temperature


@pytest.mark.parametrize("loud", [0.3, 1.0, 4.0, 12.0])
def test_no_other_temperature_fits_better(loud):
    """Whether the logits are too quiet or too loud, a fine grid finds nothing better."""
    random = np.random.default_rng(1)
    targets = random.integers(0, 6, 300)
    logits = random.normal(0, 1, (300, 6))
    logits[np.arange(300), targets] += 1.5
    logits = (logits * loud).astype(np.float32)

    found = fit_temperature(logits, targets)

    grid = [cross_entropy(logits, targets, t) for t in np.geomspace(0.05, 20, 2000)]
    assert cross_entropy(logits, targets, found) <= min(grid) + 1e-9
    assert 0.05 < found < 20


def test_where_every_photo_is_right_it_stays_near_one():
    """Every low temperature fits then; sharpening sure answers further would gain nothing."""
    targets = np.arange(40) % 4
    logits = (30.0 * np.eye(4)[targets]).astype(np.float32)

    assert 0.8 < fit_temperature(logits, targets) <= 1.1
    # Quiet logits are sharpened until they are as good as sure.
    quiet = fit_temperature(logits / 20, targets)
    assert 0.05 <= quiet < 0.1


def test_useless_logits_get_the_highest_temperature():
    """Answers that say nothing are best made as even as can be."""
    random = np.random.default_rng(0)
    logits = (5 * random.normal(size=(500, 10))).astype(np.float32)

    assert fit_temperature(logits, random.integers(0, 10, 500)) > 15
