"""How far a measured accuracy can be trusted."""

import math
from collections.abc import Sequence

Z95 = 1.959963984540054
"""Standard normal quantile of a 95 % interval."""


def wilson(num_correct: int, num_photos: int, z: float = Z95) -> tuple[float, float]:
    """Return the score interval of a proportion (Wilson 1927), as fractions."""
    if num_photos == 0:
        return 0.0, 1.0
    p, n = num_correct / num_photos, num_photos
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and half the width of its 95 % interval (Student's t); 0 for one value."""
    n = len(values)
    mean = sum(values) / n
    if n == 1:
        return mean, 0.0
    variance = sum((value - mean) ** 2 for value in values) / (n - 1)
    return mean, t95(n - 1) * math.sqrt(variance / n)


def t95(degrees: int) -> float:
    """Return the 97.5 % quantile of Student's t, within 0.1 % (exact for 1 to 4 degrees)."""
    exact = {1: 12.706205, 2: 4.302653, 3: 3.182446, 4: 2.776445}
    if degrees in exact:
        return exact[degrees]
    z, d = Z95, degrees
    # Cornish-Fisher expansion (Abramowitz and Stegun 26.7.5).
    return (
        z
        + (z**3 + z) / (4 * d)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * d**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * d**3)
    )
