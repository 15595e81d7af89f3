"""`hansang review`: which labels and photos of a folder are probably wrong."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from machine import num_cores
from storage import require_writable
from terminal import print_json, print_table, progress, say
from training.cli.captured import review_captured
from training.cli.options import (
    AcceptChanges,
    CacheDir,
    Data,
    Device,
    Group,
    Json,
    StopWithParent,
    StudiesDir,
    StudySide,
    named,
)
from training.cli.photos import look, prepared, title_of
from training.loop.stopping import stop_at_end_of_input, stop_on_signals

if TYPE_CHECKING:
    from training.config import TrainConfig
    from training.data.cache import DatasetCache, Split
    from training.review.out_of_fold import Answers
    from training.review.review import Review

Folds = Annotated[int, typer.Option(min=2, max=20, help="Parts, each held out once.")]
From = Annotated[
    Path | None,
    typer.Option(
        "--from", metavar="RUN", help="Train nothing: a first guess by what this run sees."
    ),
]
Run = Annotated[
    str | None,
    typer.Option(
        callback=named,
        help="Name of the runs, RUNS/<name>/fold-1-of-4 and so on; runs that exist go on.",
        show_default="<DATA's name>-review-<hash of the photos and settings>",
    ),
]
Epochs = Annotated[int, typer.Option(min=1, help="Epochs of each run.")]
Workers = Annotated[
    int, typer.Option(min=1, help="Processes that share the folds; more may join from others.")
]
WorkerThreads = Annotated[
    int | None,
    typer.Option(min=1, help="CPU threads of a worker.", show_default="its share of cores"),
]
Out = Annotated[
    Path | None,
    typer.Option(
        help="The folder to write into.", show_default="<DATA's name>-review, or -captured"
    ),
]
Captured = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Instead: what hansang serve --capture kept in this folder or s3://…, for DATA.",
    ),
]
OnlyTrain = Annotated[bool, typer.Option(hidden=True, help="As a worker: train, write nothing.")]
_MOST = 10
_ROUGH = 0.5
"""Share of labels that the runs agree with, below which they have hardly learnt."""


def review(
    data: Data,
    folds: Folds = 4, source: From = None, run: Run = None,
    recipe: Annotated[str, typer.Option(help="Recipe of the runs.")] = "scratch",
    epochs: Epochs = 20, image_size: StudySide = 64,
    workers: Workers = 1,
    device: Device = "auto", threads: WorkerThreads = None,
    accept_changes: AcceptChanges = False,
    group: Group = "",
    captured: Captured = None,
    out: Out = None,
    runs_dir: StudiesDir = Path("runs"), cache_dir: CacheDir = Path("cache"),
    as_json: Json = False,
    stop_with_parent: StopWithParent = False, only_train: OnlyTrain = False,
) -> None:  # fmt: skip
    """Rank what is probably wrong in a folder of photos, and write a page to decide on it.

    Every photo, whatever its split, is judged by a run that did not learn from it. Labels come
    first; copies, outliers, and photos that are dark, blurred, nearly empty or very narrow follow.
    Photos of one group, and copies of a file, stay in one fold.

    Stopped or killed, the same command goes on. Writes review.html and review.json; what a person
    decides on the page is a table that `hansang relabel` takes in.
    With --captured it shows what the service kept, the most instructive first, and trains nothing.

    Example: hansang review photos --epochs 20 --image-size 64
    """
    if stop_with_parent:
        threading.Thread(target=stop_at_end_of_input, daemon=True).start()
    folder = out or Path(f"{title_of(data)}-{'captured' if captured else 'review'}")
    require_writable(folder, "--out")
    if captured is not None:
        review_captured(data, captured, folder, as_json=as_json)
        return
    share = threads or max(num_cores() // workers, 1)
    config = _config(recipe, source, epochs=epochs, image_size=image_size, threads=share)
    cache = prepared(look(data, cache_dir, group=group), config.image_size, cache_dir)
    photos, splits = _everything(cache)
    name = run or _name(data, cache, config, folds, photos)
    arguments = [
        *("review", str(data), "--folds", str(folds), "--run", name, "--recipe", recipe),
        *("--epochs", str(epochs), "--image-size", str(image_size), "--device", device),
        *("--threads", str(share), "--group", group, "--out", str(folder), "--only-train"),
        *("--runs-dir", str(runs_dir), "--cache-dir", str(cache_dir)),
        *(["--accept-changes"] if accept_changes else []),
    ]
    with _helpers(arguments, 0 if source else workers - 1, runs_dir / name):
        answers = _answers(
            source, cache, photos, config, runs_dir / name, folds=folds, device=device,
            accept_changes=accept_changes,
        )  # fmt: skip
    if only_train:
        return
    found = _judged(data, cache, photos, splits, answers, group)
    numbers = _summary(found, folder)
    pages = _write(found, data, folder)
    if as_json:
        print_json({**numbers, "files": [str(path) for path in pages]})
        return
    _print(found, numbers, pages)


def _everything(cache: "DatasetCache") -> tuple["Split", tuple[str, ...]]:
    from training.review.folds import everything

    return everything(cache)


def _config(recipe: str, source: Path | None, **overrides: Any) -> "TrainConfig":
    """Return the settings of the runs; of a first guess, those of the run that it is made from."""
    from training.config import TrainConfig
    from training.errors import RunError
    from training.recipes import recipe as recipe_of
    from training.runs import run_directory

    if source is None:
        return recipe_of(recipe).with_overrides(overrides)
    about = run_directory.read(source)
    if about is None:
        raise RunError(f"{source} is no run directory: it has no config.json")
    return TrainConfig.from_dict(about["config"]).with_overrides({"threads": overrides["threads"]})


def _name(
    data: Path, cache: "DatasetCache", config: "TrainConfig", folds: int, photos: "Split"
) -> str:
    """Return a name that is the same for the same photos, groups and settings, and no others."""
    told = [cache.dataset_hash, config.to_dict(), folds, sorted(zip(photos.files, photos.groups,
            strict=False))]  # fmt: skip
    key = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    return f"{title_of(data)}-review-{key.hexdigest()[:8]}"


@contextmanager
def _helpers(arguments: list[str], count: int, folder: Path) -> Iterator[None]:
    """Let so many other processes share the folds while the block runs."""
    from training.tuning.workers import started

    if count:
        folder.mkdir(parents=True, exist_ok=True)
    with started(arguments, count, folder):
        yield


def _answers(
    source: Path | None, cache: "DatasetCache", photos: "Split", config: "TrainConfig",
    folder: Path, *, folds: int, device: str, accept_changes: bool,
) -> "Answers":  # fmt: skip
    if source is not None:
        from training.review.first_guess import guess

        with progress("guess") as report:
            return guess(source, cache, photos, folds=folds, progress=report)
    from training.review.out_of_fold import train_folds

    stop = stop_on_signals()
    return train_folds(
        cache, photos, config, folder, folds=folds, device=device,
        accept_changes=accept_changes, should_stop=stop.is_set,
    )  # fmt: skip


def _judged(
    data: Path, cache: "DatasetCache", photos: "Split", splits: tuple[str, ...],
    answers: "Answers", group: str,
) -> "Review":  # fmt: skip
    from training.datasheet.inspection import inspect
    from training.review.review import review as judge

    with progress("inspect") as report:
        sheet = inspect(data, group=group, progress=report)
    return judge(data, cache, photos, splits, answers, sheet)


def _write(found: "Review", data: Path, folder: Path) -> list[Path]:
    from training.review.page import write_page
    from training.review.suspect import write

    return [write(found.to_dict(), folder), *write_page(found.to_dict(), data, folder)]


def _summary(found: "Review", folder: Path) -> dict[str, Any]:
    """Return the numbers of a review; `new_doubtful_labels` counts those not in the one before."""
    from training.review.suspect import doubtful_in

    kinds = [suspect.kind for suspect in found.suspects]
    doubtful = {(one.photo, one.label) for one in found.suspects if one.doubtful}
    before = doubtful_in(folder)
    return {
        "photos": found.num_photos,
        "held_out_top1": found.accuracy,
        "doubtful_labels": len(doubtful),
        "new_doubtful_labels": None if before is None else len(doubtful - before),
        "pairs": found.pairs[:_MOST],
        "halved": [[one.label, *map(len, one.halves)] for one in found.halved],
        "kinds": {kind: kinds.count(kind) for kind in sorted(set(kinds) - {"label"})},
    }


def _print(found: "Review", numbers: dict[str, Any], pages: list[Path]) -> None:
    if found.accuracy < _ROUGH:
        say(
            f"warning: only {found.accuracy:.0%} of the labels are what the photos look like to the"
            " runs, so their order says little; take more --epochs, or a larger --image-size"
        )
    for pair in numbers["pairs"]:
        say(f"{pair['count']} labelled {pair['label']} look like {pair['suggested']}")
    for label, first, second in numbers["halved"][:_MOST]:
        say(f"{label} falls into two halves, {first} and {second} photos: perhaps two classes")
    rows = [
        [one.photo, one.label, one.suggested, f"{one.score:.2f}"]
        for one in found.suspects
        if one.kind == "label"
    ][:_MOST]
    title = (
        f"{numbers['doubtful_labels']} of {found.num_photos} labels are not what the photos look"
        " like to the runs; the most suspicious"
    )
    print_table(title, ["photo", "label", "looks like", "score"], rows)
    if (new := numbers["new_doubtful_labels"]) is not None:
        say(f"new since the last review in this folder: {new}")
    for kind, count in numbers["kinds"].items():
        say(f"{kind.replace('_', ' ')}: {count}")
    for page in pages:
        say(f"written: {page}")
