"""What differs between runs: settings, accuracy and recall, each with its 95 % interval.

Every run is compared with the first. Shapes: N photos, K classes.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.errors import RunError
from training.evaluation.clusters import Clusters, sign_flips
from training.evaluation.intervals import accuracy_interval, mcnemar, paired_interval
from training.evaluation.metrics import Predictions
from training.pages import page
from training.reports.run_numbers import RunNumbers, numbers_of
from training.runs.run_record import RunRecord
from training.setting_names import flatten


@dataclass(frozen=True, kw_only=True, slots=True)
class Delta:
    """By how much a run is right more often than the first, on the same photos or on others."""

    value: float | None
    """Fraction; None where predictions are missing or the classes are others."""
    interval: tuple[float, float] | None
    paired: bool
    """Both answered the same photos."""
    gained: int
    """Paired: photos that only this run gets right."""
    lost: int
    """Paired: photos that only the first gets right."""
    p: float | None
    """Paired: exact p that gains and losses are equally likely, by photo (McNemar's test) or, where
    photos share groups, by group."""
    groups: int = 0
    """Groups that the interval and p count; 0 where no two photos share one."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What differs between runs; every tuple is in the order in which the runs were given."""

    records: tuple[RunRecord, ...]
    names: tuple[str, ...]
    """The runs' IDs; where two are equal, the second has '(2)'."""
    numbers: tuple[RunNumbers, ...]
    deltas: tuple[Delta | None, ...]
    """Against the first run; its own is None."""
    settings: tuple[tuple[str, tuple[str, ...]], ...]
    """(setting, its value in each run), of settings that differ."""
    classes: tuple[tuple[str, tuple[float | None, ...], tuple[Delta | None, ...]], ...]
    """(label, recall in each run, difference to the first); empty if the classes differ."""

    def to_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        runs = zip(self.names, self.records, self.numbers, self.deltas, strict=True)
        return {
            "runs": [
                {
                    "run": name,
                    "path": str(record.path),
                    "best_epoch": record.best["epoch"],
                    "val_top1": record.best["val_top1"],
                    "difference": delta and asdict(delta),
                    "scores": {split: asdict(found) for split, found in numbers.scores.items()},
                }
                for name, record, numbers, delta in runs
            ],
            "settings": {name: list(values) for name, values in self.settings},
            "classes": [
                {
                    "label": label,
                    "recall": list(recall),
                    "difference": [d and asdict(d) for d in ds],
                }
                for label, recall, ds in self.classes
            ],
        }


def compare(run_dirs: Sequence[Path]) -> Comparison:
    """Read runs and compare each with the first.

    Raises:
        RunError: Fewer than two runs, or one of them cannot be read.
    """
    if len(run_dirs) < 2:
        raise RunError("compare needs two runs or more: hansang compare runs/first runs/second")
    records = tuple(RunRecord.open(run_dir) for run_dir in run_dirs)
    first = records[0]
    deltas = (None, *(_delta(first, record) for record in records[1:]))
    flats = [{**flatten(r.config), "data": r.dataset_hash[:12], "classes": len(r.labels),
              "code": r.git_commit[:12], **r.versions} for r in records]  # fmt: skip
    names = sorted({name for flat in flats for name in flat})
    settings = [(n, tuple(page.value(flat.get(n)) for flat in flats)) for n in names]
    return Comparison(
        records=records,
        names=_names(records),
        numbers=tuple(numbers_of(record) for record in records),
        deltas=deltas,
        settings=tuple((n, values) for n, values in settings if len(set(values)) > 1),
        classes=_classes(records),
    )


def difference(
    first: NDArray[np.bool_], second: NDArray[np.bool_], *, paired: bool = True,
    clusters: tuple[Clusters | None, Clusters | None] = (None, None),
) -> Delta:  # fmt: skip
    """Return by how much `second` is right more often than `first`, with a 95 % interval.

    Paired, both are (N,) of the same photos, and the interval is `paired_interval`. Otherwise it is
    Newcombe's of the two intervals (1998). `clusters` are the groups of the photos of each.
    """
    groups = max(found.count if found else 0 for found in clusters)
    if paired:
        gained, lost = int((second & ~first).sum()), int((first & ~second).sum())
        each = second.astype(np.float64) - first
        middle, half = paired_interval(each, clusters[0])
        p = mcnemar(gained, lost) if clusters[0] is None else sign_flips(clusters[0].sums(each))
        value = (gained - lost) / len(first)
        interval = (max(-1.0, middle - half), min(1.0, middle + half))
        return Delta(value=value, interval=interval, paired=True, gained=gained, lost=lost,
                     p=p, groups=groups)  # fmt: skip
    a, b = float(first.mean()), float(second.mean())
    low_a, high_a = accuracy_interval(first, clusters[0])
    low_b, high_b = accuracy_interval(second, clusters[1])
    low = b - a - math.hypot(b - low_b, high_a - a)
    high = b - a + math.hypot(high_b - b, a - low_a)
    return Delta(value=b - a, interval=(low, high), paired=False, gained=0, lost=0, p=None,
                 groups=groups)  # fmt: skip


def _delta(first: RunRecord, other: RunRecord) -> Delta:
    a, b = first.val, other.val
    if a is None or b is None or first.labels != other.labels:
        return Delta(value=None, interval=None, paired=False, gained=0, lost=0, p=None)
    joined = _joined(a, b)
    if joined is None:
        return difference(a.right, b.right, paired=False, clusters=(a.clusters, b.clusters))
    rows_a, rows_b = joined
    clusters = _clusters(a, rows_a)
    return difference(a.right[rows_a], b.right[rows_b], clusters=(clusters, clusters))


def _clusters(found: Predictions, rows: NDArray[np.generic]) -> Clusters | None:
    """Return the groups of some photos, rows or a mask; None where no two share one."""
    return Clusters.of(np.array(found.groups)[rows].tolist()) if found.groups else None


def _joined(a: Predictions, b: Predictions) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Return the rows that bring both into one order; None unless they are of the same photos."""
    if set(a.files) != set(b.files) or len(a.files) != len(b.files):
        return None
    rows_a, rows_b = np.argsort(np.array(a.files)), np.argsort(np.array(b.files))
    return (rows_a, rows_b) if (a.targets[rows_a] == b.targets[rows_b]).all() else None


def _classes(
    records: Sequence[RunRecord],
) -> tuple[tuple[str, tuple[float | None, ...], tuple[Delta | None, ...]], ...]:
    """Return recall and differences by class, sorted by the difference of the last run."""
    first, labels = records[0].val, records[0].labels
    found = [record.val for record in records if record.labels == labels]
    if first is None or len(found) < len(records):
        return ()
    joined = [None if other is None else _joined(first, other) for other in found]
    rows = []
    for target, label in enumerate(labels):
        recall: list[float | None] = []
        deltas: list[Delta | None] = []
        before = first.right[first.targets == target]
        for other, rows_of in zip(found, joined, strict=True):
            after = np.zeros(0, bool) if other is None else other.right[other.targets == target]
            recall.append(float(after.mean()) if len(after) else None)
            if other is None or not len(before) or not len(after):
                deltas.append(None)
            elif rows_of is None:
                clusters = (_clusters(first, first.targets == target),
                            _clusters(other, other.targets == target))  # fmt: skip
                deltas.append(difference(before, after, paired=False, clusters=clusters))
            else:
                of_class = first.targets[rows_of[0]] == target
                a, b = first.right[rows_of[0]], other.right[rows_of[1]]
                groups = _clusters(first, rows_of[0][of_class])
                deltas.append(difference(a[of_class], b[of_class], clusters=(groups, groups)))
        rows.append((label, tuple(recall), (None, *deltas[1:])))

    def change(row: tuple[str, tuple[float | None, ...], tuple[Delta | None, ...]]) -> float:
        last = row[2][-1]
        return 0.0 if last is None or last.value is None else last.value

    return tuple(sorted(rows, key=change))


def _names(records: Sequence[RunRecord]) -> tuple[str, ...]:
    seen: dict[str, int] = {}
    names = []
    for record in records:
        seen[record.name] = seen.get(record.name, 0) + 1
        again = seen[record.name]
        names.append(record.name if again == 1 else f"{record.name} ({again})")
    return tuple(names)
