"""Every number of a run's report, from its files alone."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from training.evaluation import metrics, selective
from training.evaluation.convergence import Convergence, measure
from training.evaluation.metrics import PerClass, Scores
from training.runs.run_record import RunRecord

_CONFUSIONS = 15
"""So many confusions are listed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunNumbers:
    """Every number of a report."""

    convergence: Convergence | None
    """None with fewer than five epochs."""
    scores: dict[str, Scores]
    """By split, of the uncalibrated model; empty without stored predictions."""
    matrix: metrics.Ints | None
    """[K, K] validation photos by true (rows) and predicted class."""
    per_class: PerClass | None
    """Of the validation photos."""
    answered: tuple[selective.Answered, ...]
    """Accuracy against coverage on the validation photos, by calibrated confidence; empty without
    stored predictions."""

    @property
    def halving(self) -> selective.Answered | None:
        """Return the lowest threshold that halves the share of wrong answers; None without one."""
        return selective.halving(self.answered) if self.answered else None

    def to_dict(self, labels: tuple[str, ...]) -> dict[str, Any]:
        """Return it ready for JSON."""
        return {
            "convergence": self.convergence and self.convergence.to_dict(),
            "scores": {split: asdict(found) for split, found in self.scores.items()},
            "per_class": [] if self.per_class is None else class_rows(self.per_class, labels),
            "confusions": [] if self.matrix is None else confusions(self.matrix, labels),
            "answered": [asdict(point) for point in self.answered],
        }


def numbers_of(record: RunRecord) -> RunNumbers:
    """Compute the numbers of a run, also of one that is under way."""
    predictions = {"val": record.val, "test": record.test}
    matrix = None
    if record.val is not None:
        matrix = metrics.confusion(record.val.targets, record.val.predicted, len(record.labels))
    return RunNumbers(
        convergence=measure(
            [epoch["val_top1"] for epoch in record.history],
            None if record.val is None else len(record.val.targets),
        ),
        scores={name: metrics.scores(p) for name, p in predictions.items() if p is not None},
        matrix=matrix,
        per_class=None
        if matrix is None or record.val is None
        else metrics.per_class(matrix, metrics.designs_of(record.val, len(record.labels))),
        answered=_answered(record),
    )


def _answered(record: RunRecord) -> tuple[selective.Answered, ...]:
    if record.val is None:
        return ()
    val = record.val if record.temperature is None else record.val.calibrated(record.temperature)
    return selective.curve(val.probabilities.max(1), val.right, val.clusters)


def class_rows(found: PerClass, labels: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return a row for each class, the lowest F1 first; a rate is None where no photo counts."""

    def rate(rates: metrics.Rates, index: int) -> dict[str, float | None]:
        values = {"value": rates.value[index], "low": rates.low[index], "high": rates.high[index]}
        return {name: None if np.isnan(v) else float(v) for name, v in values.items()}

    order = np.argsort(found.f1.value, kind="stable")
    return [
        {
            "label": labels[index],
            "support": int(found.support[index]),
            "predicted": int(found.predicted[index]),
            "precision": rate(found.precision, index),
            "recall": rate(found.recall, index),
            "f1": rate(found.f1, index),
        }
        for index in order.tolist()
    ]


def confusions(matrix: metrics.Ints, labels: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return the largest cells beside the diagonal of a confusion matrix, the largest first."""
    # In the order of the matrix, which ties keep.
    cells = [(row, column) for row, column in np.argwhere(matrix).tolist() if row != column]
    cells.sort(key=lambda cell: -int(matrix[cell]))
    return [
        {
            "is": labels[row], "taken_for": labels[column], "count": int(matrix[row, column]),
            "share": int(matrix[row, column]) / int(matrix[row].sum()),
        }
        for row, column in cells[:_CONFUSIONS]
    ]  # fmt: skip
