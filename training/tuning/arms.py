"""Ways of training side by side: equal budgets, several seeds, and what the numbers allow to say.

An arm is a config by name; each is trained with every seed, `<folder>/<arm>-seed<n>` a run each.
The first arm is what the others are compared with. Runs that are there already are not made again.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from terminal import Progress, no_progress
from training.config import AugmentConfig, SchedulerConfig, TrainConfig
from training.data.cache import DatasetCache
from training.distributed.job_claims import take_turns
from training.evaluation.intervals import mean_interval
from training.files import write_text
from training.loop.trainer import train
from training.reports.gain import Gain, gain
from training.runs import run_directory
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
class ArmsResult:
    """A finished comparison."""

    title: str
    arms: tuple[ArmResult, ...]
    classes: tuple[tuple[str, tuple[float, ...], tuple[float, ...]], ...]
    """(label, recall in each arm, points of difference to the first), the greatest change last."""
    gains: Mapping[str, Gain]
    """'A over B' → the gain, for each pair that the conclusion speaks of."""
    conclusion: tuple[str, ...]
    """What follows, a sentence each."""
    epochs: int
    seeds: int

    def to_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return {
            **asdict(self),
            "classes": [
                {"label": label, "recall": list(recall), "difference": list(difference)}
                for label, recall, difference in self.classes
            ],
        }


Arms = list[tuple[str, str, TrainConfig]]


def train_arms(
    arms: Sequence[tuple[str, str, TrainConfig]], cache: DatasetCache, folder: Path,
    seeds: Sequence[int], *, device: str = "auto",
    should_stop: Callable[[], bool] = lambda: False, progress: Progress = no_progress,
) -> dict[str, list[Path]]:  # fmt: skip
    """Train each arm with each seed; return the run directories by arm.

    Several processes may do so side by side: each takes a run that nobody is at, and waits for the
    others in the end.

    Raises:
        StoppedError: `should_stop` said so; the same call goes on.
    """
    # Seed by seed: what was stopped half way has whole seeds to look at.
    jobs = [
        (folder / f"{name}-seed{seed}", dataclasses.replace(config, seed=seed))
        for seed in seeds
        for name, _, config in arms
    ]

    def do(job: tuple[Path, TrainConfig]) -> None:
        run_dir, config = job
        if (run_dir / "result.json").is_file():
            # It is there already, if it is this very run.
            run_directory.open_or_create(run_dir, config, cache, config.threads)
            return
        train(
            config, cache, run_dir, device=device, should_stop=should_stop,
            progress=_within(progress, jobs.index(job), len(jobs), config.epochs, run_dir.name),
        )  # fmt: skip

    take_turns(jobs, do, should_stop)
    return {name: [folder / f"{name}-seed{seed}" for seed in seeds] for name, _, _ in arms}


def summed_up(
    title: str, arms: Sequence[tuple[str, str, TrainConfig]], runs: Mapping[str, Sequence[Path]],
    pairs: Sequence[tuple[str, str]],
) -> ArmsResult:  # fmt: skip
    """Return the table and what follows from it; `pairs` are compared in the conclusion."""
    first = arms[0][0]
    found = []
    for name, what, _ in arms:
        mean, half = mean_interval([RunRecord.open(r).best["val_top1"] for r in runs[name]])
        found.append(
            ArmResult(
                name=name, what=what, val_top1=mean, half_interval=half,
                gain=None if name == first else gain(runs[first], runs[name]),
                runs=tuple(str(run) for run in runs[name]),
            )
        )  # fmt: skip
    gains = {}
    for name, other in pairs:
        between = gain(runs[other], runs[name])
        if between is not None:
            gains[f"{name} over {other}"] = between
    whats = {name: what for name, what, _ in arms}
    return ArmsResult(
        title=title, arms=tuple(found), classes=_classes(arms, runs), gains=gains,
        conclusion=tuple(
            said(whats[pair.partition(" over ")[0]], whats[pair.partition(" over ")[2]], between)
            for pair, between in gains.items()
        ),
        epochs=arms[0][2].epochs, seeds=len(runs[first]),
    )  # fmt: skip


def said(better: str, than: str, found: Gain) -> str:
    """Return what a difference allows to say, and no more."""
    value, low, high = found.value, found.low, found.high
    if found.certain and value < 0:
        better, than, value, low, high = than, better, -value, -high, -low
    figures = f"{value * 100:+.1f} points, 95 %: {low * 100:+.1f} to {high * 100:+.1f}"
    if not found.certain:
        seeds = " One seed cannot tell: repeat with --seeds 3." if found.seeds == 1 else ""
        return f"No difference shows between {better} and {than} ({figures}).{seeds}"
    return f"{better.capitalize()} beats {than} ({figures})."


def weakest_classes(run_dir: Path, count: int) -> tuple[int, ...]:
    """Return the positions of the classes that a run recognises worst by recall."""
    record = RunRecord.open(run_dir)
    recall = _recall([run_dir], len(record.labels))
    return tuple(sorted(np.argsort(recall, kind="stable")[:count].tolist()))


def augmentation_arms(base: TrainConfig, even: AugmentConfig) -> Arms:
    """Return the arms that need no first run: no augmentation, and even augmentation."""
    none = AugmentConfig(crop_area=1, flip=0, brightness=0, contrast=0, saturation=0)
    return [
        ("none", "no augmentation", dataclasses.replace(base, augment=none)),
        ("even", "augmenting all classes evenly", dataclasses.replace(base, augment=even)),
    ]


def weakest_arm(base: TrainConfig, even: AugmentConfig, classes: tuple[int, ...]) -> Arms:
    """Return the arm that augments only some classes, as much as `even` does."""
    only = dataclasses.replace(even, classes=classes)
    what = f"augmenting only the {len(classes)} weakest classes"
    return [(f"weakest{len(classes)}", what, dataclasses.replace(base, augment=only))]


def scheduler_arms(base: TrainConfig) -> Arms:
    """Return an arm for each scheduler; the constant learning rate is what they are held to."""
    third = max(base.epochs // 3, 1)
    settings = {
        "none": ("a constant learning rate", SchedulerConfig(name="none")),
        "step": ("step decay", SchedulerConfig(name="step", step_epochs=third)),
        "cosine": ("cosine with warm-up", SchedulerConfig(name="cosine", warmup_epochs=2)),
        "onecycle": ("one-cycle", SchedulerConfig(name="onecycle")),
        "plateau": (
            "plateau", SchedulerConfig(name="plateau", step_epochs=max(base.epochs // 10, 1),
                                       gamma=0.3),
        ),
    }  # fmt: skip
    return [
        (name, what, dataclasses.replace(base, scheduler=scheduler))
        for name, (what, scheduler) in settings.items()
    ]


def write(result: ArmsResult, folder: Path) -> Path:
    """Write `result.json` and `report.html` into the comparison's folder; return the page."""
    from training.pages import page
    from training.tuning.study_plots import arms_classes, arms_figure

    write_text(folder / "result.json", json.dumps(result.to_dict(), ensure_ascii=False, indent=2))
    figures = [arms_figure(result, folder / "plots")]
    if len(result.arms) > 1 and result.classes:
        figures.append(arms_classes(result, folder / "plots"))
    out = folder / "report.html"
    page.write("arms.html.j2", out, {"result": result, "figures": figures, "folder": folder})
    return out


def _classes(
    arms: Sequence[tuple[str, str, TrainConfig]], runs: Mapping[str, Sequence[Path]]
) -> tuple[tuple[str, tuple[float, ...], tuple[float, ...]], ...]:
    labels = RunRecord.open(runs[arms[0][0]][0]).labels
    recalls = np.array([_recall(runs[name], len(labels)) for name, _, _ in arms])
    order = np.argsort(recalls[-1] - recalls[0], kind="stable").tolist()
    return tuple(
        (
            labels[index],
            tuple(recalls[:, index].tolist()),
            tuple((recalls[:, index] - recalls[0, index]).tolist()),
        )
        for index in order
    )


def _recall(runs: Sequence[Path], num_classes: int) -> Any:
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
    return np.mean(rows, 0)


def _within(progress: Progress, before: int, runs: int, epochs: int, name: str) -> Progress:
    def report(done: int, total: int, note: str = "") -> None:
        place = before * epochs + done * epochs // max(total, 1)
        progress(place, runs * epochs, f"{name}: {note}")

    return report
