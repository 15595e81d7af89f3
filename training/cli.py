"""The verbs that need photos alone: sample, inspect, prepare."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from terminal import UserError, print_json, print_table, progress, say

if TYPE_CHECKING:
    from training.inspection import Sheet

Data = Annotated[
    Path, typer.Argument(help="train/ val/ (test/) of class folders, or class folders alone.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Seed = Annotated[int, typer.Option(min=0, help="Decides what is drawn at random.")]


def sample(
    out: Annotated[Path, typer.Argument(help="The folder to draw into.")],
    classes: Annotated[
        int | None,
        typer.Option(min=2, max=42, help="Dishes.", show_default="42, or 13 if similar"),
    ] = None,
    per_class: Annotated[int, typer.Option(min=5, help="Pictures of each dish.")] = 60,
    similar: Annotated[bool, typer.Option(help="Draw 13 other, similar dishes.")] = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Draw a folder of pictures of dishes, to stand in while there are no photos.

    Example: hansang sample photos --classes 42 --per-class 60
    """
    from training.sample import draw

    count = classes or (13 if similar else 42)
    with progress("draw") as report:
        draw(out, classes=count, per_class=per_class, similar=similar, seed=seed, progress=report)
    if as_json:
        print_json({"path": str(out), "classes": count, "pictures": count * per_class})
        return
    say(f"{count * per_class} pictures of {count} dishes in {out}; next: hansang inspect {out}")


def inspect(
    data: Data,
    out: Annotated[
        Path | None, typer.Option(help="The picture.", show_default="<DATA's name>.png")
    ] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Show one photo of each class in a picture, count them, and find what is wrong.

    Photos that cannot be trained on as they are, are shown as well; the exit code is then 1.

    Example: hansang inspect photos --out photos.png
    """
    from training.inspection import contact_sheet
    from training.inspection import inspect as look

    with progress("inspect") as report:
        sheet = look(data, seed=seed, progress=report)
    picture = out or Path(f"{data.resolve().name}.png")
    contact_sheet(sheet, picture)
    if as_json:
        print_json({**sheet.to_dict(), "picture": str(picture)})
    else:
        _print_sheet(sheet, picture)
    if sheet.error is not None:
        raise UserError(sheet.error)


def _print_sheet(sheet: "Sheet", picture: Path) -> None:
    counts = sheet.counts()
    rows = [[label, *(counts[split][label] for split in counts)] for label in sheet.folder.labels]
    title = f"{len(sheet.folder.photos)} photos in {sheet.folder.root}"
    print_table(title, ["class", *counts], rows)
    for path, reason in sheet.bad_files.items():
        say(f"unreadable: {path}: {reason}")
    for group in sheet.duplicates:
        say(f"the same photo in several splits: {', '.join(group)}")
    if sheet.folder.num_ignored:
        say(f"{sheet.folder.num_ignored} files are no photos by their name, and are ignored")
    say(f"one photo of each class: {picture}")


def prepare(
    data: Data,
    image_size: Annotated[
        int, typer.Option(min=32, max=512, help="Side of the model's square, in pixels.")
    ] = 224,
    cache_dir: Annotated[Path, typer.Option(help="Where dataset caches lie.")] = Path("cache"),
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Build the dataset cache: every photo decoded once. Skipped when nothing has changed.

    Example: hansang prepare photos --image-size 64
    """
    from training.cache import prepare as build

    with progress("prepare") as report:
        cache = build(data, image_size, cache_root=cache_dir, seed=seed, progress=report)
    counts = {name: len(split.targets) for name, split in cache.splits.items()}
    if as_json:
        print_json(
            {
                "path": str(cache.path),
                "dataset_hash": cache.dataset_hash,
                "classes": len(cache.labels),
                "photos": counts,
                "bad_files": cache.bad_files,
            }
        )
        return
    for path, reason in cache.bad_files.items():
        say(f"left out: {path}: {reason}")
    rows = [[name, count] for name, count in counts.items()]
    print_table(f"{len(cache.labels)} classes in {cache.path}", ["split", "photos"], rows)
