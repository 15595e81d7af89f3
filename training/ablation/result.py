"""What a study of arms found: a table, the classes that change, and the conclusions it allows.

Every arm is compared with the first. Shapes: A arms, K classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.ablation.arms import Arm
from training.ablation.learning_curve import LearningCurve, learning_curve
from training.evaluation.intervals import mean_interval, over
from training.reports.gain import Gain, gain
from training.runs.run_record import RunRecord


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmResult:
    """What an arm reached, over its seeds."""

    name: str
    what: str
    """What it does, in words."""
    val_top1: float
    """Mean over the seeds of the best epoch's, as a fraction."""
    half_interval: float
    """Half its 95 % interval over seeds (Student's t); 0 for one seed."""
    gain: Gain | None
    """Against the first arm; None for that."""
    runs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class AblationResult:
    """A finished study of arms; `result.json` holds it."""

    title: str
    arms: tuple[ArmResult, ...]
    classes: tuple[tuple[str, tuple[float, ...], tuple[float, ...]], ...]
    """(label, recall in each arm, its difference to the first), sorted by the last difference."""
    gains: Mapping[str, Gain]
    """'A over B' → the gain, for each pair that the conclusion compares."""
    conclusion: tuple[str, ...]
    """What follows, a sentence each."""
    epochs: int
    seeds: int
    curve: LearningCurve | None = None
    """Of arms that learn from more and more photos."""

    def to_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return {
            **asdict(self),
            "classes": [
                {"label": label, "recall": list(recall), "difference": list(difference)}
                for label, recall, difference in self.classes
            ],
        }


def summarise(
    title: str, arms: Sequence[Arm], runs: Mapping[str, Sequence[Path]],
    pairs: Sequence[tuple[str, str]], learnt: NDArray[np.int64] | None = None,
) -> AblationResult:  # fmt: skip
    """Compare finished runs; `pairs` of arm names are what the conclusion compares.

    With the photos of each class that each arm learnt from, `learnt` (A, K), a curve is fitted.

    Raises:
        RunError: A run is not finished, or runs answered other photos.
    """
    first = arms[0].name
    found = []
    for arm in arms:
        mean, half = mean_interval([RunRecord.open(r).best["val_top1"] for r in runs[arm.name]])
        found.append(
            ArmResult(
                name=arm.name, what=arm.what, val_top1=mean, half_interval=half,
                gain=None if arm.name == first else gain(runs[first], runs[arm.name]),
                runs=tuple(str(run) for run in runs[arm.name]),
            )
        )  # fmt: skip
    what = {arm.name: arm.what for arm in arms}
    gains, conclusion = {}, []
    for name, other in pairs:
        between = gain(runs[other], runs[name])
        if between is not None:
            gains[f"{name} over {other}"] = between
            conclusion.append(verdict(what[name], what[other], between))
    curve = None
    if learnt is not None:
        curve = learning_curve([runs[arm.name] for arm in arms], learnt)
        conclusion = [*curve.sentences(), *conclusion]
    return AblationResult(
        title=title, arms=tuple(found), classes=_classes(arms, runs), gains=gains,
        conclusion=tuple(conclusion), epochs=arms[0].config.epochs, seeds=len(runs[first]),
        curve=curve,
    )  # fmt: skip


def verdict(better: str, than: str, found: Gain) -> str:
    """Return the sentence that a difference allows: who beats whom, or that none shows."""
    value, low, high = found.value, found.low, found.high
    if found.certain and value < 0:
        better, than, value, low, high = than, better, -value, -high, -low
    interval = f"95 % {over(found.groups)}: {low * 100:+.1f} to {high * 100:+.1f}"
    figures = f"{value * 100:+.1f} points, {interval}"
    if not found.certain:
        few = {1: "One seed cannot", 2: "Two seeds are too few to"}.get(found.seeds)
        seeds = f" {few} tell: repeat with --seeds 3." if few else ""
        return f"No difference shows between {better} and {than} ({figures}).{seeds}"
    return f"{better.capitalize()} beats {than} ({figures})."


def weakest_classes(run_dir: Path, count: int) -> tuple[int, ...]:
    """Return the positions of the `count` classes that a run has the lowest recall on, sorted."""
    recall = _recall([run_dir], len(RunRecord.open(run_dir).labels))
    return tuple(sorted(np.argsort(recall, kind="stable")[:count].tolist()))


def _classes(
    arms: Sequence[Arm], runs: Mapping[str, Sequence[Path]]
) -> tuple[tuple[str, tuple[float, ...], tuple[float, ...]], ...]:
    labels = RunRecord.open(runs[arms[0].name][0]).labels
    recalls = np.array([_recall(runs[arm.name], len(labels)) for arm in arms])
    order = np.argsort(recalls[-1] - recalls[0], kind="stable").tolist()
    return tuple(
        (
            labels[index],
            tuple(recalls[:, index].tolist()),
            tuple((recalls[:, index] - recalls[0, index]).tolist()),
        )
        for index in order
    )


def _recall(runs: Sequence[Path], num_classes: int) -> NDArray[np.float64]:
    """Return the mean recall of each class over runs, (K,); 1 where it has no photo."""
    rows = []
    for run in runs:
        found = RunRecord.open(run).val
        if found is None:
            continue
        of_class = np.bincount(found.targets, minlength=num_classes)
        right = found.targets[found.predicted == found.targets]
        hits = np.bincount(right, minlength=num_classes)
        rows.append(np.where(of_class > 0, hits / np.maximum(of_class, 1), 1.0))
    mean: NDArray[np.float64] = np.mean(rows, 0)
    return mean
