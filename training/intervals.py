"""How far a measured accuracy can be trusted."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Z95 = 1.959963984540054
"""Standard normal quantile of a 95 % interval."""


def wilson(
    successes: ArrayLike, trials: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the 95 % score interval of proportions (Wilson 1927); NaN where nothing was tried.

    Never leaves 0 to 1, and is sensible at both ends and for few trials.
    """
    n = np.where(np.asarray(trials) > 0, trials, np.nan).astype(np.float64)
    share = np.asarray(successes, np.float64) / n
    spread = Z95 * np.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
    centre, scale = share + Z95**2 / (2 * n), 1 + Z95**2 / n
    return np.maximum((centre - spread) / scale, 0), np.minimum((centre + spread) / scale, 1)


def wilson_of(num_correct: int, num_photos: int) -> tuple[float, float]:
    """Return the same for one accuracy, as plain fractions."""
    low, high = wilson(num_correct, num_photos)
    return float(low), float(high)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and half the width of its 95 % interval (Student's t); 0 for one value."""
    n = len(values)
    if n == 1:
        return values[0], 0.0
    from scipy.stats import t

    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
    return mean, float(t.ppf(0.975, n - 1)) * deviation / math.sqrt(n)
