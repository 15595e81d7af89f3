"""Where a curve of validation accuracy slows, settles and converges: measured, not judged by eye.

a_1 … a_E is validation top-1 after each epoch; N the photos that it is counted on.

  W          max(3, E/10) epochs: the window
  δ          max(0.5 points, 2·√(L(1-L)/N)): less than this cannot be told from chance
  t          the best rising fit to a (isotonic regression: least squares, never falling)
  knee       the epoch where t is furthest above the straight line between its two ends
  settled    the first epoch from which on any W epochs of a lie within a band of ±δ
  L          the mean of a over the last W epochs: the final level
  converged  the first epoch from which on the mean over W epochs stays within δ of L
  budget     max(knee, settled)
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

_LEAST_EPOCHS = 5
_LEAST_TOLERANCE = 0.005
_LEAST_BEND = 0.1
_HELD = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Convergence:
    """Where the growth of a run slows, settles and ends. Epochs count from 1; None is 'not yet'."""

    epochs: int
    window: int
    """W, in epochs."""
    tolerance: float
    """δ, as a fraction of all photos."""
    level: float
    """L, as a fraction."""
    knee: int | None
    settled: int | None
    converged: int | None
    budget: int
    """Epochs that are enough to compare settings by; all epochs while the run still grows."""
    trend: tuple[float, ...]
    """t, one value an epoch."""
    last_swing: float
    """The range of the last W epochs, as a fraction."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {**asdict(self), "trend": list(self.trend)}

    def advice(self) -> str:
        """Return the recommended budget and the reason for it, in one or two sentences."""
        if self.knee is None:
            return (
                f"Tune with {self.budget} epochs or more: accuracy was still growing steadily"
                " when the run ended, so a shorter budget would rank settings by their speed."
            )
        if self.settled is None:
            return (
                f"Tune with {self.budget} epochs or more: growth slows at epoch {self.knee}, but"
                f" the last {self.window} epochs still lie {self.last_swing:.1%} apart, more than"
                f" the {2 * self.tolerance:.1%} that chance explains."
            )
        return (
            f"Tune with {self.budget} epochs: by then growth has slowed (epoch {self.knee}) and"
            f" validation has settled (epoch {self.settled}). Compare settings at equal budgets,"
            " each with its whole learning-rate schedule inside the budget."
        )


@dataclass(frozen=True, slots=True)
class Definition:
    """The explanation of one of the measured points, for the report."""

    name: str
    words: str
    formula: str


DEFINITIONS = (
    Definition(
        "Growth slows",
        "The knee: the epoch where the rising trend t is furthest above the straight line from its"
        " first to its last value. There is none where it is nowhere a tenth of the way above it.",
        "argmax_e (t_e - t_1)/(t_E - t_1) - (e - 1)/(E - 1)",
    ),
    Definition(
        "Swing settles",
        "The first epoch from which on the validation accuracies of any W epochs lie within a band"
        " of ±δ.",
        "min e: max(a_j … a_j+W-1) - min(a_j … a_j+W-1) ≤ 2δ for all j ≥ e",
    ),
    Definition(
        "Converges",
        "The first epoch from which on the mean over W epochs stays within δ of the final level L:"
        f" for at least {_HELD} W epochs when the run ends, and not while growth is steady.",
        "min e: |mean(a_j … a_j+W-1) - L| ≤ δ for all j ≥ e;  L = mean(a_E-W+1 … a_E)",
    ),
    Definition(
        "Budget for tuning",
        "Enough epochs to compare settings by: growth has slowed and validation has settled.",
        "max(knee, settled)",
    ),
)


def measure(val_top1: Sequence[float], num_photos: int | None = None) -> Convergence | None:
    """Return the measured points of a run; None if it has fewer than five epochs.

    Args:
        val_top1: [E] fractions, one an epoch.
        num_photos: Validation photos; without it δ is one point.

    Raises:
        ValueError: An accuracy is not within 0 to 1.
    """
    from scipy.optimize import isotonic_regression

    a = np.asarray(val_top1, np.float64)
    if not ((a >= 0) & (a <= 1)).all():
        raise ValueError("validation accuracies must be fractions from 0 to 1")
    epochs = len(a)
    if epochs < _LEAST_EPOCHS:
        return None
    window = max(3, round(epochs / 10))
    level = float(a[-window:].mean())
    tolerance = _tolerance(level, num_photos)
    trend: NDArray[np.float64] = isotonic_regression(a).x
    windows = sliding_window_view(a, window)
    swings = windows.max(1) - windows.min(1)
    knee = _knee(trend, tolerance)
    settled = _first_for_good(swings <= 2 * tolerance + 1e-12)
    converged = _first_for_good(np.abs(windows.mean(1) - level) <= tolerance + 1e-12)
    rising = knee is None and trend[-1] - trend[0] > tolerance
    if converged is not None and (rising or epochs - converged + 1 < _HELD * window):
        converged = None
    return Convergence(
        epochs=epochs,
        window=window,
        tolerance=tolerance,
        level=level,
        knee=knee,
        settled=settled,
        converged=converged,
        budget=max(knee or epochs, settled or epochs),
        trend=tuple(trend.tolist()),
        last_swing=float(swings[-1]),
    )


def _tolerance(level: float, num_photos: int | None) -> float:
    if not num_photos:
        return 0.01
    return max(_LEAST_TOLERANCE, 2 * math.sqrt(level * (1 - level) / num_photos))


def _knee(trend: NDArray[np.float64], tolerance: float) -> int | None:
    """Return the epoch furthest above the chord (the knee of Satopää et al. 2011, 'Kneedle')."""
    rise = trend[-1] - trend[0]
    if rise <= tolerance:
        # The run learnt nothing that chance does not explain, or all of it in its first epoch.
        return None
    above = (trend - trend[0]) / rise - np.linspace(0, 1, len(trend))
    best = int(above.argmax())
    return best + 1 if above[best] >= _LEAST_BEND else None


def _first_for_good(holds: NDArray[np.bool_]) -> int | None:
    """Return the first position (from 1) from which all are true; None if the last is false."""
    if not holds[-1]:
        return None
    broken = np.flatnonzero(~holds)
    return int(broken[-1]) + 2 if len(broken) else 1
