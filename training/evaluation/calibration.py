"""Temperature scaling and calibration error (Guo et al. 2017, arXiv 1706.04599).

Shapes: N photos, K classes.
"""

import numpy as np
from numpy.typing import NDArray

_LOWEST, _HIGHEST = 0.05, 20.0
"""Temperatures that are tried."""
_PULL = 1e-12
"""Pulls the logarithm of the temperature towards 0, too weakly to matter where photos are wrong."""


def softmax(logits: NDArray[np.float32], temperature: float = 1.0) -> NDArray[np.float64]:
    """Return probabilities (N, K), each row from logits that are divided by the temperature."""
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
    """Return the temperature, 0.05 to 20, under which the targets (N,) are likeliest.

    Where every photo is right, ever lower temperatures are likelier, until the difference is too
    small to count; of such equals it is the one nearest 1.
    """
    from scipy.optimize import minimize_scalar

    def loss(log_temperature: float) -> float:
        fit = cross_entropy(logits, targets, float(np.exp(log_temperature)))
        return fit + _PULL * log_temperature**2

    found = minimize_scalar(
        loss, bounds=(np.log(_LOWEST), np.log(_HIGHEST)), method="bounded",
        options={"xatol": 1e-9},
    )  # fmt: skip
    # Rounded, so that the same weights give the same file on every machine.
    return round(float(np.exp(found.x)), 4)


def expected_calibration_error(
    probabilities: NDArray[np.floating], targets: NDArray[np.int64], bins: int = 15
) -> float:
    """Return |accuracy - confidence| averaged over bins of equal width, weighted by photos."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == targets
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(place, right - confidence, bins)
    return float(np.abs(gaps).sum() / len(targets))
