"""Temperature scaling and calibration error (Guo et al. 2017, arXiv 1706.04599).

Shapes: N photos, K classes.
"""

import numpy as np
from numpy.typing import NDArray

_LOWEST, _HIGHEST = 0.05, 20.0
_GOLDEN = (5**0.5 - 1) / 2


def softmax(logits: NDArray[np.float32], temperature: float = 1.0) -> NDArray[np.float64]:
    """Return probabilities (N, K)."""
    scaled = logits.astype(np.float64) / temperature
    powers = np.exp(scaled - scaled.max(1, keepdims=True))
    result: NDArray[np.float64] = powers / powers.sum(1, keepdims=True)
    return result


def cross_entropy(
    logits: NDArray[np.float32], targets: NDArray[np.int64], temperature: float = 1.0
) -> float:
    """Return the mean negative log likelihood, in nats."""
    chosen = softmax(logits, temperature)[np.arange(len(targets)), targets]
    return float(-np.log(np.maximum(chosen, 1e-300)).mean())


def fit_temperature(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> float:
    """Return the temperature, 0.05 to 20, under which the targets are likeliest.

    The likelihood has one peak over 1/T, so a golden-section search over its logarithm finds it.
    """
    low, high = np.log(_LOWEST), np.log(_HIGHEST)
    for _ in range(60):
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        losses = [cross_entropy(logits, targets, float(np.exp(at))) for at in (left, right)]
        low, high = (low, right) if losses[0] < losses[1] else (left, high)
    # Rounded, so that the same weights give the same file on every machine.
    return round(float(np.exp((low + high) / 2)), 4)


def expected_calibration_error(
    probabilities: NDArray[np.floating], targets: NDArray[np.int64], bins: int = 15
) -> float:
    """Return |accuracy - confidence| averaged over bins of equal width, weighted by photos."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == targets
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(place, right - confidence, bins)
    return float(np.abs(gaps).sum() / len(targets))
