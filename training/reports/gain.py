"""By how much one way of training beats another, over several seeds.

A measured difference is uncertain because seeds differ, and because photos are few. Each gives an
interval; they add up in quadrature, as independent errors do.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.errors import RunError
from training.evaluation.clusters import Clusters
from training.evaluation.intervals import mean_interval, paired_interval
from training.evaluation.metrics import Predictions
from training.runs.run_record import RunRecord


@dataclass(frozen=True, kw_only=True, slots=True)
class Gain:
    """A difference of top-1, as fractions."""

    first: float
    """Mean top-1 over the seeds of the way that is compared with."""
    second: float
    value: float
    low: float
    high: float
    """The 95 % interval, of seeds and photos together."""
    seeds: int
    photos: int
    groups: int = 0
    """Groups that photos share, and that the interval counts; 0 where they share none."""

    @property
    def certain(self) -> bool:
        """Return whether the interval excludes 0, no difference."""
        return self.low > 0 or self.high < 0

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {**asdict(self), "certain": self.certain}


def gain(first: Sequence[Path], second: Sequence[Path], split: str = "val") -> Gain | None:
    """Compare the runs of two ways of training, a pair for each seed; None without such a split.

    Raises:
        RunError: A run stored no predictions, or they are of other photos.
    """
    rights = [[right_of(run, split) for run in runs] for runs in (first, second)]
    if any(right is None for runs in rights for right in runs):
        return None
    pairs = [(a, b) for a, b in zip(*rights, strict=True) if a is not None and b is not None]
    return gain_of(pairs, groups_of(first[0], split))


def gain_of(
    pairs: Sequence[tuple[Mapping[str, bool], Mapping[str, bool]]],
    groups: Mapping[str, str] | None = None,
) -> Gain:
    """Compare two ways of training by what each got right, by file; a pair for each seed.

    `groups` has the group of each file that is in one.

    Raises:
        RunError: The runs answered different photos.
    """
    files = sorted(pairs[0][0])
    if any(sorted(side) != files for pair in pairs for side in pair):
        raise RunError("the runs answered other photos; compare runs of one dataset")
    first, second = (
        np.array([[pair[side][file] for file in files] for pair in pairs]) for side in (0, 1)
    )
    return gain_between(first, second, Clusters.of([(groups or {}).get(f, "") for f in files]))


def gain_between(
    first: NDArray[np.bool_], second: NDArray[np.bool_], clusters: Clusters | None = None
) -> Gain:
    """Compare what two ways of training got right, (S, N): S seeds, N photos in one order."""
    each = second.astype(np.float64) - first
    value, seeds_half = mean_interval(each.mean(1).tolist())
    # The seeds answered the same photos, so each photo counts once, with its mean over seeds.
    middle, photos_half = paired_interval(each.mean(0), clusters)
    half = math.hypot(seeds_half, photos_half)
    return Gain(
        first=float(first.mean()), second=float(second.mean()), value=value,
        low=max(-1.0, middle - half), high=min(1.0, middle + half),
        seeds=len(first), photos=first.shape[1], groups=clusters.count if clusters else 0,
    )  # fmt: skip


def groups_of(run_dir: Path, split: str) -> dict[str, str]:
    """Return the group of each photo of a split that is in one, by file."""
    record = RunRecord.open(run_dir)
    found = record.val if split == "val" else record.test
    if found is None:
        return {}
    return dict(zip(found.files, found.groups, strict=False))


def right_of(run_dir: Path, split: str) -> dict[str, bool] | None:
    """Return which photos of a split a run gets right, by file; None without such a split."""
    record = RunRecord.open(run_dir)
    found: Predictions | None = record.val if split == "val" else record.test
    if found is None:
        if split == "val":
            raise RunError(f"{run_dir} stored no predictions; train it again under another name")
        return None
    right = (found.predicted == found.targets).tolist()
    return dict(zip([str(file) for file in found.files], right, strict=True))
