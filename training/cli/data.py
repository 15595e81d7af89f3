"""The verbs that need photos alone: sample, inspect, prepare."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from photo_folder.names import shell
from storage import require_writable
from terminal import UserError, print_json, print_table, progress, say
from training.cli.options import CacheDir, Group, Json
from training.cli.photos import MOST, look, prepared, title_of

if TYPE_CHECKING:
    from training.datasheet.findings import Sheet

Data = Annotated[
    Path,
    typer.Argument(
        help="train/ val/ (test/) of class folders, class folders alone, a table, or s3://…"
    ),
]
_MOST_ROWS = 200
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
    from training.samples.sample import draw_photos

    count = classes or (13 if similar else 42)
    with progress("draw") as report:
        draw_photos(
            out, classes=count, per_class=per_class, similar=similar, seed=seed, progress=report
        )
    if as_json:
        print_json({"path": str(out), "classes": count, "pictures": count * per_class})
        return
    say(
        f"{count * per_class} pictures of {count} dishes in {out}; next:"
        f" hansang inspect {shell(out)}"
    )


def inspect(
    data: Data,
    out: Annotated[
        Path | None,
        typer.Option(help="The folder of the sheet.", show_default="<DATA's name>-sheet"),
    ] = None,
    strict: Annotated[
        bool, typer.Option(help="Exit with 1 if something should be mended: for CI.")
    ] = False,
    seed: Seed = 0,
    group: Group = "",
    as_json: Json = False,
) -> None:
    """Make a data sheet: one photo of each class, counts, sizes, and what is wrong.

    Finds unreadable photos, copies across splits (also resized or recompressed ones) and under two
    labels, and unusual ones. Writes index.html, classes.png and sheet.json. Photos that cannot be
    trained on as they are, are shown as well; the exit code is then 1. --strict exits with 1 for
    unreadable photos, leaks between splits and photos under two labels, too.

    Example: hansang inspect photos --out sheet
    """
    from training.datasheet.inspection import inspect as inspected
    from training.datasheet.sheet import write

    folder = out or Path(f"{title_of(data)}-sheet")
    require_writable(folder, "--out")
    with progress("inspect") as report:
        sheet = inspected(data, seed=seed, group=group, tell=say, progress=report)
    page = write(sheet, folder)
    if as_json:
        print_json({**sheet.to_dict(), "page": str(page), "picture": str(folder / "classes.png")})
    else:
        _print_sheet(sheet, page)
    if sheet.error is not None:
        raise UserError(sheet.error)
    if strict and sheet.problems():
        raise UserError(f"{data}: {', '.join(sheet.problems())}; see {page}")


def _print_sheet(sheet: "Sheet", page: Path) -> None:
    counts = sheet.counts()
    labels = sheet.folder.labels
    rows = [[label, *(counts[split][label] for split in counts)] for label in labels[:_MOST_ROWS]]
    title = f"{len(sheet.folder.photos)} photos in {sheet.folder.root}"
    print_table(title, ["class", *counts], rows)
    if len(labels) > _MOST_ROWS:
        say(f"and {len(labels) - _MOST_ROWS} more classes, in sheet.json")
    for path, reason in list(sheet.bad_files.items())[:MOST]:
        say(f"unreadable: {path}: {reason}")
    for what, found in (
        ("in several splits", sheet.leaks()),
        ("under several labels", sheet.conflicts()),
        ("repeated", sheet.repeats()),
    ):
        for copies in found[:MOST]:
            same = "the same file" if copies.kind == "exact" else "the same picture"
            say(f"{same} {what}: {', '.join(sheet.name(photo) for photo in copies.photos)}")
        if len(found) > MOST:
            say(f"and {len(found) - MOST} more {what}")
    if len(sheet.bad_files) > MOST:
        say(f"and {len(sheet.bad_files) - MOST} more unreadable")
    for group, splits in list(sheet.parted().items())[:MOST]:
        say(f"one group in several splits: {group} in {', '.join(splits)}")
    if advice := sheet.advice()[0]:
        say(advice)
    for note, files in sheet.notes().items():
        say(f"{note}: {len(files)}, for example {files[0]}")
    for name in sheet.decomposed[:MOST]:
        say(f"stored in decomposed Unicode (NFD), read as NFC: {name}")
    say(f"data sheet: {page}")


def prepare(
    data: Data,
    image_size: Annotated[
        int, typer.Option(min=32, max=512, help="Side of the model's square, in pixels.")
    ] = 224,
    cache_dir: CacheDir = Path("cache"),
    seed: Seed = 0,
    group: Group = "",
    as_json: Json = False,
) -> None:
    """Build the dataset cache: every photo decoded once. Skipped when nothing has changed.

    Example: hansang prepare photos --image-size 64
    """
    cache = prepared(look(data, cache_dir, seed=seed, group=group), image_size, cache_dir)
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
    rows = [[name, count] for name, count in counts.items()]
    print_table(f"{len(cache.labels)} classes in {cache.path}", ["split", "photos"], rows)
