"""`hansang study`: a question about training, answered over several seeds."""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from storage import require_writable
from terminal import print_json, print_table, progress, say
from training.cli.options import CacheDir, Device, Json, StudiesDir
from training.cli.photos import look, prepared, title_of


class Question(StrEnum):
    """What can be asked."""

    augmentation = "augmentation"
    schedulers = "schedulers"


def study(
    question: Annotated[Question, typer.Argument(help="augmentation or schedulers.")],
    data: Annotated[
        Path, typer.Argument(help="train/ val/ (test/) of class folders, or class folders alone.")
    ],
    seeds: Annotated[int, typer.Option(min=1, help="Times that each arm is trained.")] = 3,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of each run.")] = 20,
    image_size: Annotated[
        int, typer.Option(min=32, max=512, help="Side of the square, in pixels.")
    ] = 224,
    recipe: Annotated[
        str, typer.Option(help="Recipe that everything else is taken from.")
    ] = "scratch",
    policy: Annotated[
        str, typer.Option(help="Augmentation that is studied: recipe's, or a policy's name.")
    ] = "recipe",
    weakest: Annotated[
        int | None,
        typer.Option(min=1, help="Classes that the last arm augments.", show_default="a quarter"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The first seed.")] = 0,
    name: Annotated[
        str | None,
        typer.Option("--name", help="Its folder in RUNS.", show_default="<DATA's name>-<question>"),
    ] = None,
    device: Device = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads.", show_default="all cores")
    ] = None,
    runs_dir: StudiesDir = Path("runs"),
    cache_dir: CacheDir = Path("cache"),
    as_json: Json = False,
) -> None:
    """Compare ways of training at equal budgets: a table with intervals, and what follows from it.

    augmentation: none, of all classes evenly, and of the weakest classes alone (those that the
    first run without augmentation recognises worst). schedulers: constant, step, cosine with
    warm-up, one-cycle, plateau. Stopped or killed, the same command goes on; given in a second
    terminal, with the same --threads, it takes runs off the first.

    Example: hansang study augmentation photos --epochs 20 --image-size 64
    """
    photos = look(data, cache_dir)
    folder = runs_dir / (name or f"{title_of(data)}-{question.value}")
    require_writable(folder, "--runs-dir")
    from training.ablation import arms as arms_of
    from training.ablation.result import summarise, weakest_classes
    from training.ablation.result_page import write
    from training.errors import ConfigError
    from training.loop.stopping import stop_on_signals
    from training.recipes import recipe as recipe_of
    from training.tuning.policies import POLICIES, augmentation

    base = recipe_of(recipe).with_overrides({
        "epochs": epochs, "image_size": image_size,
        "threads": threads or len(os.sched_getaffinity(0)),
    })  # fmt: skip
    even = base.augment if policy == "recipe" else augmentation(policy, epochs=epochs)
    if question is Question.augmentation and even == augmentation("none"):
        raise ConfigError(
            f"--recipe {recipe} --policy {policy} augments nothing: there is nothing to compare."
            f" Give a --policy, such as light; there are {', '.join(POLICIES)}"
        )
    cache = prepared(photos, image_size, cache_dir)
    stop = stop_on_signals()
    all_seeds = range(seed, seed + seeds)
    with progress("study") as report:
        if question is Question.schedulers:
            arms = arms_of.scheduler_arms(base)
            pairs = [(arm.name, "none") for arm in arms[1:]]
        else:
            arms = arms_of.augmentation_arms(base, even)
            first = arms_of.train_arms(
                arms[:1], cache, folder, all_seeds[:1], device=device, should_stop=stop.is_set,
                progress=report,
            )  # fmt: skip
            count = min(weakest or max(len(cache.labels) // 4, 1), len(cache.labels))
            classes = weakest_classes(first["none"][0], count)
            say("weakest: " + ", ".join(cache.labels[index] for index in classes))
            arms.append(arms_of.weakest_arm(base, even, classes))
            pairs = [("even", "none"), (arms[2].name, "none"), ("even", arms[2].name)]
        runs = arms_of.train_arms(
            arms, cache, folder, all_seeds, device=device, should_stop=stop.is_set,
            progress=report,
        )  # fmt: skip
    result = summarise(f"{title_of(data)}: {question.value}", arms, runs, pairs)
    page = write(result, folder)
    if as_json:
        print_json({**result.to_dict(), "report": str(page)})
        return
    rows = []
    for arm in result.arms:
        gain = arm.gain
        rows.append([
            arm.name, f"{arm.val_top1:.1%}", f"± {arm.half_interval:.1%}" if seeds > 1 else "–",
            "–" if gain is None else f"{gain.value * 100:+.1f}",
            "–" if gain is None else f"{gain.low * 100:+.1f} to {gain.high * 100:+.1f}",
        ])  # fmt: skip
    print_table(
        f"{result.title}, {epochs} epochs, {seeds} seeds",
        ["arm", "top-1", "seeds", "points", "95 %"], rows,
    )  # fmt: skip
    for sentence in result.conclusion:
        print(sentence)
    say(f"report: {page}")
