"""When a trial is given up: successive halving, asynchronously (ASHA; Li et al. 2020).

At a quarter and at half of the epochs every trial is judged as if it ended there (see
`training/loop/annealed_preview.py`: top-1 at equal epochs, the tail of each schedule included). It
goes on if it is among the best of all that came to this rung so far: a quarter of them at the first
rung, where most are far behind, and half at the second, where those that are left are close.
Rounded up.
"""

import math
from typing import TYPE_CHECKING

from optuna.pruners import BasePruner

if TYPE_CHECKING:
    import optuna

KEPT_OF = (4, 2)
"""One of so many goes on, at the first rung and at the second."""


def rungs(epochs: int) -> tuple[int, ...]:
    """Return the epochs at which trials are judged; none where there are fewer than four.

    >>> rungs(20)
    (5, 10)
    """
    return tuple(sorted({epochs // 4, epochs // 2})) if epochs >= 4 else ()


class Rungs(BasePruner):
    """Prunes by what trials report at rungs, and nothing else is reported."""

    def prune(self, study: "optuna.Study", trial: "optuna.trial.FrozenTrial") -> bool:
        """Return whether a trial is not among the best at the rung that it reported."""
        rung = trial.last_step
        if rung is None:
            return False
        reached = [
            other.intermediate_values[rung]
            for other in study.get_trials(deepcopy=False)
            if rung in other.intermediate_values and other.number != trial.number
        ]
        kept_of = KEPT_OF[min(len(trial.intermediate_values), len(KEPT_OF)) - 1]
        better = sum(value > trial.intermediate_values[rung] for value in reached)
        return better >= math.ceil((len(reached) + 1) / kept_of)
