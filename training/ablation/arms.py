"""The arms of each question, and their runs: `<folder>/<arm>-seed<n>`, a run directory each."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from terminal import Progress, no_progress
from training.config import AugmentConfig, SchedulerConfig, TrainConfig
from training.data.cache import DatasetCache
from training.distributed.job_claims import run_jobs
from training.loop.trainer import train
from training.runs import run_directory


@dataclasses.dataclass(frozen=True, slots=True)
class Arm:
    """One way of training."""

    name: str
    """Names its run directories, so it is unique within a study."""
    what: str
    """What it does, in words that complete 'no difference shows between … and …'."""
    config: TrainConfig
    """Its settings; each run replaces the seed."""


def augmentation_arms(base: TrainConfig, even: AugmentConfig) -> list[Arm]:
    """Return the arms without augmentation, the first, and with `even` for all classes."""
    none = AugmentConfig(crop_area=1, flip=0, brightness=0, contrast=0, saturation=0)
    return [
        Arm("none", "no augmentation", dataclasses.replace(base, augment=none)),
        Arm("even", "augmenting all classes evenly", dataclasses.replace(base, augment=even)),
    ]


def weakest_arm(base: TrainConfig, even: AugmentConfig, classes: tuple[int, ...]) -> Arm:
    """Return the arm that augments only these classes, as strongly as `even` does."""
    only = dataclasses.replace(even, classes=classes)
    what = f"augmenting only the {len(classes)} weakest classes"
    return Arm(f"weakest{len(classes)}", what, dataclasses.replace(base, augment=only))


def scheduler_arms(base: TrainConfig) -> list[Arm]:
    """Return an arm for each scheduler; the first, a constant rate, is the reference."""
    third = max(base.epochs // 3, 1)
    tenth = max(base.epochs // 10, 1)
    settings = {
        "none": ("a constant learning rate", SchedulerConfig(name="none")),
        "step": ("step decay", SchedulerConfig(name="step", step_epochs=third)),
        "cosine": ("cosine with warm-up", SchedulerConfig(name="cosine", warmup_epochs=2)),
        "onecycle": ("one-cycle", SchedulerConfig(name="onecycle")),
        "plateau": ("plateau", SchedulerConfig(name="plateau", step_epochs=tenth, gamma=0.3)),
    }
    return [
        Arm(name, what, dataclasses.replace(base, scheduler=scheduler))
        for name, (what, scheduler) in settings.items()
    ]


def photo_arms(base: TrainConfig, counts: Sequence[int]) -> list[Arm]:
    """Return an arm for each number of photos a class, in rising order, and one for all photos.

    All take equally many steps: fewer photos come more often.
    """
    return [
        *(
            Arm(
                f"photos{count}", f"{count} photos a class",
                dataclasses.replace(base, photos_per_class=count),
            )
            for count in sorted(set(counts))
        ),
        Arm("all", "all photos", base),
    ]  # fmt: skip


def train_arms(
    arms: Sequence[Arm], cache: DatasetCache, folder: Path, seeds: Sequence[int], *,
    device: str = "auto", accept_changes: bool = False,
    should_stop: Callable[[], bool] = lambda: False, progress: Progress = no_progress,
) -> dict[str, list[Path]]:  # fmt: skip
    """Train each arm with each seed; return the run directories by arm, in the order of the seeds.

    Finished runs are kept, and runs that were stopped go on. Processes that are given the same
    folder share the runs between them, and each returns when all runs are finished.

    Raises:
        StoppedError: `should_stop` said so; the same call goes on.
        RunError: A run directory holds another run.
    """
    # Seed by seed: a study that is stopped half way has whole seeds to compare.
    jobs = [
        (folder / f"{arm.name}-seed{seed}", dataclasses.replace(arm.config, seed=seed))
        for seed in seeds
        for arm in arms
    ]

    def run(job: tuple[Path, TrainConfig]) -> None:
        run_dir, config = job
        if (run_dir / "result.json").is_file():
            # Finished; this raises if it is a run of other settings.
            run_directory.open_or_create(run_dir, config, cache, {})
            return
        train(
            config, cache, run_dir, device=device, accept_changes=accept_changes,
            should_stop=should_stop,
            progress=_of_study(progress, jobs.index(job), len(jobs), config.epochs, run_dir.name),
        )  # fmt: skip

    run_jobs(jobs, run, should_stop)
    return {arm.name: [folder / f"{arm.name}-seed{seed}" for seed in seeds] for arm in arms}


def _of_study(progress: Progress, before: int, runs: int, epochs: int, name: str) -> Progress:
    """Return the progress of one run as that of the study, in epochs; `before` runs are done."""

    def report(done: int, total: int, note: str = "") -> None:
        trained = before * epochs + done * epochs // max(total, 1)
        progress(trained, runs * epochs, f"{name}: {note}")

    return report
