"""Draws a folder of dishes, to use while there are no photos yet."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from machine import num_cores
from terminal import Progress, no_progress
from training.errors import DataError
from training.files import write_text
from training.samples.dishes import DISHES, SIMILAR
from training.samples.painting import paint

_MARKER = ".hansang-sample.json"
_QUALITY = 88


def draw_photos(
    out: Path,
    *,
    classes: int = 42,
    per_class: int = 60,
    similar: bool = False,
    seed: int = 0,
    progress: Progress = no_progress,
) -> Path:
    """Draw `<out>/<split>/<dish>/<number>.jpg`, a tenth each in val and test; return `out`.

    The same arguments draw the same pictures. A folder that is complete is left as it is, and one
    whose drawing was interrupted is completed.

    Args:
        out: The folder.
        classes: How many dishes, 42 at most, or 13 if they are similar.
        per_class: Pictures of each dish.
        similar: Draw dishes that are hard to tell apart.
        seed: Decides every picture.
        progress: Is called with pictures.

    Raises:
        DataError: There are not so many dishes, or `out` holds other files.
    """
    dishes = SIMILAR if similar else DISHES
    if not 2 <= classes <= len(dishes):
        raise DataError(f"classes must be 2 to {len(dishes)}, not {classes}")
    about = {"classes": classes, "per_class": per_class, "similar": similar, "seed": seed}
    marker = out / _MARKER
    if marker.exists() and json.loads(marker.read_text("utf-8")) == {**about, "done": True}:
        return out
    begun = marker.exists() and json.loads(marker.read_text("utf-8")) == {**about, "done": False}
    if not begun and out.exists() and any(out.iterdir()):
        raise DataError(f"{out} is not empty; choose another folder to draw into, or remove it")
    out.mkdir(parents=True, exist_ok=True)
    write_text(marker, json.dumps({**about, "done": False}))
    held_out = max(1, round(per_class / 10))
    jobs = []
    for target, name in enumerate(list(dishes)[:classes]):
        for number in range(per_class):
            split = "val" if number < held_out else "test" if number < 2 * held_out else "train"
            folder = out / split / name
            folder.mkdir(parents=True, exist_ok=True)
            # Each picture has a seed of its own, so that it does not depend on the others.
            own_seed = int(
                np.random.SeedSequence([seed, similar, target, number]).generate_state(1)[0]
            )
            jobs.append((name, own_seed, folder / f"{number:04d}.jpg"))

    def work(job: tuple[str, int, Path]) -> None:
        name, own_seed, path = job
        paint(dishes[name], own_seed).save(path, "JPEG", quality=_QUALITY)

    with ThreadPoolExecutor(num_cores(), "draw") as pool:
        for done, _ in enumerate(pool.map(work, jobs), 1):
            progress(done, len(jobs))
    write_text(marker, json.dumps({**about, "done": True}))
    return out
