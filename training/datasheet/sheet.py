"""A data sheet: a folder of photos as one page, its figures as files, its numbers as JSON."""

import json
from pathlib import Path
from typing import Any

from service.pixels.preprocessing import ImageError, load_square
from training.data.dataset import Photo
from training.datasheet import bursts, sheet_plots
from training.datasheet.contact_sheet import MOST_TILES, contact_sheet
from training.datasheet.findings import Copies, Sheet
from training.errors import DataError
from training.files import write_text
from training.pages import page

_SHOWN = 60
"""So many groups, or files, of a kind are shown; the JSON has them all."""

_TILE_PX, _COPY_PX, _MANY = 160, 120, 200


def write(sheet: Sheet, out: Path) -> Path:
    """Write `index.html`, `classes.png`, `sheet.json` and the figures into a folder.

    Where photos come in bursts, `groups.csv` is a table of them with the bursts as their groups.

    Returns:
        The path of the page.

    Raises:
        DataError: `out` is a file, or cannot be written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"cannot write the data sheet into {out} ({error.strerror}); give a folder"
        ) from error
    contact_sheet(sheet, out / "classes.png")
    if any(sheet.bursts):
        bursts.write_table(sheet.folder, sheet.bursts, out)
    numbers = sheet.to_dict()
    write_text(out / "sheet.json", json.dumps(numbers, ensure_ascii=False, indent=2))
    readable = any(seen is not None for seen in sheet.looks)
    figures = {"counts": sheet_plots.counts(sheet, out)}
    if readable:
        figures["sizes"] = sheet_plots.sizes(sheet, out)
    sections = [
        ("leaks", "In more than one split", sheet.leaks(), True,
         "What is trained on is measured on as well: the measured accuracy is too good."),
        ("labels", "Under more than one label", sheet.conflicts(), True,
         "One of the labels is wrong, or the classes are not told apart by their photos."),
        ("repeats", "Repeated within a class and split", sheet.repeats(), False,
         "Harmless, but counted twice: such a photo weighs double."),
    ]  # fmt: skip
    context = {
        "sheet": sheet,
        "numbers": numbers,
        "figures": figures,
        "tiles": _tiles(sheet),
        "sections": [
            (name, title, len(found), [_group(sheet, one) for one in found[:_SHOWN]], serious, why)
            for name, title, found, serious, why in sections
            if found
        ],
        "shown": _SHOWN,
        "notes": {
            note: [
                (file, _thumbnail(sheet.folder.root / file, _COPY_PX)) for file in files[:_SHOWN]
            ]
            for note, files in sheet.notes().items()
        },
    }
    page.write("sheet.html.j2", out / "index.html", context)
    return out / "index.html"


def _tiles(sheet: Sheet) -> list[dict[str, Any]]:
    """Return label, photo and counts of each class."""
    counts = sheet.counts()
    labels = sheet.folder.labels[:MOST_TILES]
    side = _TILE_PX if len(labels) <= _MANY else _TILE_PX // 2
    return [
        {
            "label": label,
            "photo": None if photo is None else _thumbnail(photo.path, side),
            "counts": " · ".join(f"{split} {of[label]}" for split, of in counts.items()),
        }
        for label, photo in zip(labels, sheet.one_of_each(), strict=False)
    ]


def _group(sheet: Sheet, copies: Copies) -> dict[str, Any]:
    def member(photo: Photo) -> dict[str, Any]:
        return {
            "file": sheet.name(photo),
            "label": sheet.folder.labels[photo.target],
            "split": photo.split,
            "photo": _thumbnail(photo.path, _COPY_PX),
        }

    shown = copies.photos[:_SHOWN]
    return {
        "kind": copies.kind,
        "count": len(copies.photos),
        "members": [member(photo) for photo in shown],
    }


def _thumbnail(path: Path, side: int) -> str | None:
    try:
        return page.picture(load_square(path.read_bytes(), side), side)
    except (ImageError, OSError):  # it changed since it was read
        return None
