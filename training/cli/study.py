"""`hansang study`: a question about training, answered over several seeds."""

from collections.abc import Callable, Sequence
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from machine import num_cores
from storage import require_writable
from terminal import print_json, progress, say
from training.cli.options import (
    AcceptChanges,
    CacheDir,
    Data,
    Device,
    Group,
    Json,
    StudiesDir,
    StudySide,
    named,
)
from training.cli.photos import look, look_again, prepared, title_of
from training.cli.tables import print_ablation
from training.loop.stopping import stop_on_signals

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from training.ablation.arms import Arm
    from training.config import AugmentConfig, TrainConfig
    from training.data.cache import DatasetCache

    TrainArms = Callable[[Sequence[Arm], Sequence[int]], dict[str, list[Path]]]
    """Trains arms with seeds, and returns the run directories by arm."""


class Question(StrEnum):
    """What a study compares."""

    augmentation = "augmentation"
    schedulers = "schedulers"
    photos = "photos"


Ask = Annotated[Question, typer.Argument(help="augmentation, schedulers or photos.")]
Seeds = Annotated[int, typer.Option(min=1, help="Times that each arm is trained.")]
Epochs = Annotated[int, typer.Option(min=1, help="Epochs of each run.")]
Recipe = Annotated[str, typer.Option(help="Recipe that everything else is taken from.")]
Policy = Annotated[
    str, typer.Option(help="Augmentation that is studied: recipe's, or a policy's name.")
]
PerClass = Annotated[
    str,
    typer.Option("--photos-per-class", metavar="N,N,…", help="What the arms of photos learn from."),
]
Weakest = Annotated[
    int | None,
    typer.Option(min=1, help="Classes that the last arm augments.", show_default="a quarter"),
]
Seed = Annotated[int, typer.Option(min=0, help="The first seed.")]
Name = Annotated[
    str | None,
    typer.Option(
        "--name",
        callback=named,
        help="Its folder in RUNS.",
        show_default="<DATA's name>-<question>",
    ),
]
StudyThreads = Annotated[
    int | None, typer.Option(min=1, help="CPU threads.", show_default="all cores")
]


def study(
    question: Ask,
    data: Data,
    seeds: Seeds = 3, epochs: Epochs = 20, image_size: StudySide = 224,
    recipe: Recipe = "scratch", policy: Policy = "recipe", weakest: Weakest = None,
    per_class: PerClass = "5,10,20,50", seed: Seed = 0, name: Name = None,
    device: Device = "auto", threads: StudyThreads = None,
    accept_changes: AcceptChanges = False, group: Group = "",
    runs_dir: StudiesDir = Path("runs"), cache_dir: CacheDir = Path("cache"),
    as_json: Json = False,
) -> None:  # fmt: skip
    """Compare ways of training at equal budgets: a table with intervals, and what follows from it.

    augmentation: none, of all classes evenly, and of the weakest classes alone (those that the
    first run without augmentation recognises worst). schedulers: constant, step, cosine with
    warm-up, one-cycle, plateau. photos: few photos of each class, and what more would bring.
    Stopped or killed, the same command goes on. Given in a second terminal, with the same
    --threads, it shares the runs with the first.

    Example: hansang study augmentation photos --epochs 20 --image-size 64
    """
    folder = runs_dir / (name or f"{title_of(data)}-{question.value}")
    photos = (look_again if folder.is_dir() else look)(data, cache_dir, group=group)
    require_writable(folder, "--runs-dir")
    from training.ablation.arms import scheduler_arms, train_arms
    from training.ablation.result import summarise
    from training.ablation.result_page import write
    from training.recipes import recipe as recipe_of
    from training.runs.run_directory import begun_in

    cores = threads or num_cores()
    budget = {"epochs": epochs, "image_size": image_size, "threads": cores}
    base = recipe_of(recipe).with_overrides(budget)
    even = _even_augmentation(question, base, recipe, policy)
    cache = prepared(photos, image_size, cache_dir, begun=begun_in(folder))
    learnt = None
    stopped, all_seeds = stop_on_signals().is_set, range(seed, seed + seeds)
    with progress("study") as report:

        def train(arms: "Sequence[Arm]", seeds: Sequence[int]) -> dict[str, list[Path]]:
            return train_arms(
                arms, cache, folder, seeds, device=device, accept_changes=accept_changes,
                should_stop=stopped, progress=report,
            )  # fmt: skip

        if question is Question.schedulers:
            arms = scheduler_arms(base)
            pairs = [(arm.name, "none") for arm in arms[1:]]
        elif question is Question.photos:
            arms, learnt = _photo_arms(base, per_class, cache)
            pairs = [(more.name, fewer.name) for fewer, more in pairwise(arms)]
        else:
            arms, pairs = _augmentation_arms(base, even, weakest, cache, train, all_seeds[:1])
        runs = train(arms, all_seeds)
    result = summarise(f"{title_of(data)}: {question.value}", arms, runs, pairs, learnt)
    page = write(result, folder)
    if as_json:
        print_json({**result.to_dict(), "report": str(page)})
    else:
        print_ablation(result)
        say(f"report: {page}")


def _photo_arms(
    base: "TrainConfig", per_class: str, cache: "DatasetCache"
) -> "tuple[list[Arm], NDArray[np.int64]]":
    """Return the arms, and the photos of each class that each learns from, (A, K).

    Raises:
        ConfigError: `per_class` is no list of numbers, or each class has no more photos than that.
    """
    import numpy as np

    from training.ablation.arms import photo_arms
    from training.errors import ConfigError

    there = np.bincount(cache.splits["train"].targets, minlength=len(cache.labels))
    wanted = [part.strip() for part in per_class.split(",")]
    if not all(part.isdecimal() and int(part) for part in wanted):
        raise ConfigError(f"--photos-per-class {per_class!r}: give numbers, such as 5,10,20")
    # A set as large as all photos is no other arm.
    counts = [int(part) for part in wanted if int(part) < there.max()]
    if not counts:
        raise ConfigError(
            f"--photos-per-class {per_class}: the largest class has {there.max()} photos to learn"
            " from; give smaller numbers"
        )
    arms = photo_arms(base, counts)
    limits = [arm.config.photos_per_class or there.max() for arm in arms]
    return arms, np.minimum.outer(np.array(limits), there)


def _even_augmentation(
    question: Question, base: "TrainConfig", recipe: str, policy: str
) -> "AugmentConfig":
    """Return the augmentation that is studied; without any, raise a ConfigError."""
    from training.errors import ConfigError
    from training.tuning.policies import POLICIES, augmentation

    even = base.augment if policy == "recipe" else augmentation(policy)
    if question is Question.augmentation and even == augmentation("none"):
        raise ConfigError(
            f"--recipe {recipe} --policy {policy} augments nothing: there is nothing to compare."
            f" Give a --policy, such as light; there are {', '.join(POLICIES)}"
        )
    return even


def _augmentation_arms(
    base: "TrainConfig", even: "AugmentConfig", weakest: int | None, cache: "DatasetCache",
    train: "TrainArms", first_seed: Sequence[int],
) -> "tuple[list[Arm], list[tuple[str, str]]]":  # fmt: skip
    """Return the arms, and the pairs to compare; the first run tells which classes are weakest."""
    from training.ablation.arms import augmentation_arms, weakest_arm
    from training.ablation.result import weakest_classes

    none, evenly = augmentation_arms(base, even)
    first = train([none], first_seed)
    count = min(weakest or max(len(cache.labels) // 4, 1), len(cache.labels))
    classes = weakest_classes(first[none.name][0], count)
    say("weakest: " + ", ".join(cache.labels[index] for index in classes))
    only = weakest_arm(base, even, classes)
    pairs = [(evenly.name, none.name), (only.name, none.name), (evenly.name, only.name)]
    return [none, evenly, only], pairs
