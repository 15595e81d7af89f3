"""The table of a search among strategies, from the files of its runs.

Accuracies of several seeds are means. The interval of a difference is paired over the photos, and
includes the spread of the seeds. Shapes: S seeds, N photos.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.config import TrainConfig
from training.errors import RunError
from training.evaluation.clusters import Clusters
from training.evaluation.intervals import accuracy_interval, mean_interval
from training.finetuning.search import Job
from training.model.resnet import build
from training.model.stages import num_trained
from training.reports.gain import Gain, gain_between
from training.runs.run_record import RunRecord

_LEAST_SEEDS = 3
"""With fewer, the spread of the seeds is hardly known, and a difference that does not show is none
that was looked for."""
_CHEAPER = 0.8


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """The last stage of a strategy."""

    strategy: str
    stage: str
    """`final`, or the rung after which it was dropped."""
    epochs: int
    seeds: int
    val_top1: float
    """Mean over the seeds, of the best epoch of each."""
    interval: tuple[float, float]
    groups: int
    """Groups that photos share, and that intervals count; 0 where they share none."""
    test_top1: float | None
    time_s: float
    """Mean over the seeds, of steps, validation and features, on the machine that trained."""
    num_trained: int
    """Parameters that learn in some epoch."""
    behind: Gain | None
    """Against the recommended finalist; None for that one, and for dropped strategies."""
    is_cheaper: bool
    """Whether it trains in less than 0.8 times the time of the recommended one. What is served
    costs the same: every strategy ends in the same network."""
    recommended: bool
    runs: tuple[str, ...]
    """The run directories, the most accurate first."""

    @property
    def verdict(self) -> str:
        """Return the table's word for it, e.g. 'recommended' or 'worse'."""
        if self.recommended:
            return "recommended"
        if self.stage != "final":
            return f"dropped after {self.stage}"
        if self.behind is None or self.behind.certain:
            return "worse"
        if self.behind.seeds < _LEAST_SEEDS:
            return "too few seeds to tell"
        return "tie, and cheaper to train" if self.is_cheaper else "tie"


@dataclass(frozen=True, kw_only=True, slots=True)
class Strategies:
    """The table, and the classes in which the finalists differ."""

    rows: tuple[Row, ...]
    """Finalists first, the most accurate first in each stage."""
    classes: tuple[tuple[str, float, tuple[tuple[str, Gain], ...]], ...]
    """(label, recall of the recommended strategy, (other finalist, its difference to that))."""

    @property
    def recommended(self) -> Row:
        """Return the row of the recommended strategy."""
        return next(row for row in self.rows if row.recommended)

    @property
    def ties(self) -> list[str]:
        """Return the finalists whose difference to the recommended one may be chance."""
        return [row.strategy for row in self.rows if row.behind and not row.behind.certain]

    def to_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return {
            "recommended": self.recommended.strategy,
            "release": self.recommended.runs[0],
            "ties": self.ties,
            "strategies": [{**asdict(row), "verdict": row.verdict} for row in self.rows],
            "classes": [
                {"label": label, "recall": recall, "others": {n: asdict(d) for n, d in others}}
                for label, recall, others in self.classes
            ],
        }


def summarise(jobs: Sequence[Job]) -> Strategies:
    """Read the runs of a study and recommend one strategy.

    The most accurate finalist is recommended. Those whose difference to it may be chance are ties.

    Raises:
        RunError: A run is not finished.
    """
    last: dict[str, list[Job]] = {}
    for job in jobs:
        before = last.get(job.strategy, [])
        last[job.strategy] = [*(before if before and before[0].stage == job.stage else []), job]
    read = {name: [RunRecord.open(job.run_dir) for job in of] for name, of in last.items()}
    right = {name: _right(records) for name, records in read.items()}
    finals = [name for name, of in last.items() if of[0].stage in ("final", "")]
    best = max(finals, key=lambda name: (right[name].mean(), -_time_s(read[name])))
    clusters = _clusters(read[best][0])
    behind = {n: gain_between(right[best], right[n], clusters) for n in finals if n != best}
    rows = [
        _row(last[name], read[name], right[name], behind.get(name), _time_s(read[best]),
             recommended=name == best)
        for name in last
    ]  # fmt: skip
    rows.sort(key=lambda row: (row.stage == "final", row.epochs, row.val_top1), reverse=True)
    return Strategies(rows=tuple(rows), classes=_classes(best, finals, read, right))


def _row(
    jobs: Sequence[Job],
    records: Sequence[RunRecord],
    right: NDArray[np.bool_],
    behind: Gain | None,
    best_time_s: float,
    *,
    recommended: bool,
) -> Row:
    tests = [record.result["test_top1"] for record in records if record.result]
    config = TrainConfig.from_dict(records[0].config)
    order = sorted(records, key=lambda record: -record.best["val_top1"])
    return Row(
        strategy=jobs[0].strategy,
        stage=jobs[0].stage or "final",
        epochs=jobs[0].epochs,
        seeds=len(jobs),
        val_top1=float(right.mean()),
        interval=_interval(right, _clusters(records[0])),
        groups=found.count if (found := _clusters(records[0])) else 0,
        test_top1=None if None in tests or not tests else float(np.mean(tests)),
        time_s=_time_s(records),
        num_trained=num_trained(build(len(records[0].labels), seed=0), config),
        behind=behind,
        is_cheaper=_time_s(records) < _CHEAPER * best_time_s,
        recommended=recommended,
        runs=tuple(str(record.path) for record in order),
    )


def _clusters(record: RunRecord) -> Clusters | None:
    """Return the groups of the validation photos, in the order of `_right`."""
    if record.val is None or not record.val.groups:
        return None
    order = np.argsort(np.array(record.val.files))
    return Clusters.of(np.array(record.val.groups)[order].tolist())


def _interval(right: NDArray[np.bool_], clusters: Clusters | None) -> tuple[float, float]:
    """Return the interval of the mean over the seeds, widened by their spread."""
    mean, seeds = mean_interval(right.mean(1).tolist())
    low, high = accuracy_interval(right.mean(0), clusters)
    return (
        max(0.0, mean - math.hypot(mean - low, seeds)),
        min(1.0, mean + math.hypot(high - mean, seeds)),
    )


def _right(records: Sequence[RunRecord]) -> NDArray[np.bool_]:
    """Return which validation photos each seed gets right, (S, N), in one order of photos."""
    rows = []
    for record in records:
        if record.val is None:
            raise RunError(f"{record.path} has no predictions yet; finish it with the same command")
        order = np.argsort(np.array(record.val.files))
        rows.append((record.val.predicted == record.val.targets)[order])
    return np.stack(rows)


def _time_s(records: Sequence[RunRecord]) -> float:
    parts = ("train_s", "eval_s", "features_s")
    return float(
        np.mean([sum(e.get(p, 0.0) for e in record.history for p in parts) for record in records])
    )


def _classes(
    winner: str,
    finals: Sequence[str],
    read: Mapping[str, Sequence[RunRecord]],
    right: Mapping[str, NDArray[np.bool_]],
) -> tuple[tuple[str, float, tuple[tuple[str, Gain], ...]], ...]:
    record = read[winner][0]
    if record.val is None:
        return ()
    targets = record.val.targets[np.argsort(np.array(record.val.files))]
    clusters = _clusters(record)
    rows = []
    for target, label in enumerate(record.labels):
        of_class = targets == target
        if of_class.any():
            mine = right[winner][:, of_class]
            groups = clusters.subset(of_class) if clusters else None
            others = [(n, gain_between(mine, right[n][:, of_class], groups))
                      for n in finals if n != winner]  # fmt: skip
            rows.append((label, float(mine.mean()), tuple(others)))
    return tuple(sorted(rows, key=lambda row: row[1]))
