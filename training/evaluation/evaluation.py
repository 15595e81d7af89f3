"""A model's answers on a split, which all metrics are computed from.

Shapes: N photos, K classes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A model's answers on a split."""

    logits: NDArray[np.float32]
    """[N, K]"""
    targets: NDArray[np.int64]
    """[N]"""
    loss: float
    """Mean cross entropy, without label smoothing or class weights."""

    @property
    def right(self) -> NDArray[np.bool_]:
        """[N], whether the likeliest class is the right one."""
        found: NDArray[np.bool_] = self.logits.argmax(1) == self.targets
        return found

    @property
    def num_correct(self) -> int:
        """Return for how many photos the likeliest class is the right one."""
        return int(self.right.sum())

    @property
    def top1(self) -> float:
        """Return the accuracy, as a fraction."""
        return self.num_correct / len(self.targets)
