"""When a trial is pruned: asynchronous successive halving (ASHA; Li et al. 2020).

Trials are compared at two rungs, a quarter and half of the epochs, by their annealed preview
(`training/loop/annealed_preview.py`). A trial goes on if it is among the best of all trials that
have reached the rung so far. At the first rung, where most are far behind, the best quarter goes
on; at the second, where the remaining ones are close, the better half. Both are rounded up.
"""

import math
from typing import TYPE_CHECKING

from optuna.pruners import BasePruner

if TYPE_CHECKING:
    import optuna

KEPT_OF = (4, 2)
"""One of so many trials goes on, at the first rung and at the second."""


def rungs(epochs: int) -> tuple[int, ...]:
    """Return the epochs at which trials are compared; none for a run of fewer than four epochs.

    >>> rungs(20)
    (5, 10)
    """
    return tuple(sorted({epochs // 4, epochs // 2})) if epochs >= 4 else ()


class Rungs(BasePruner):
    """Prunes by what trials report at rungs; they must report nothing else."""

    def prune(self, study: "optuna.Study", trial: "optuna.trial.FrozenTrial") -> bool:
        """Return whether a trial falls behind at the rung that it reported last."""
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
