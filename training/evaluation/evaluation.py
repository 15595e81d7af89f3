"""What a model answers on a split: the figures that everything else is computed from.

Shapes: N photos, K classes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How a model does on a split."""

    logits: NDArray[np.float32]
    """[N, K]"""
    targets: NDArray[np.int64]
    """[N]"""
    loss: float
    """Mean cross entropy, without label smoothing or class weights."""

    @property
    def num_correct(self) -> int:
        """Return how many photos' likeliest class is theirs."""
        return int((self.logits.argmax(1) == self.targets).sum())

    @property
    def top1(self) -> float:
        """Return the accuracy, as a fraction."""
        return self.num_correct / len(self.targets)
