"""Groups that nobody named: copies of one picture, and photos that one camera took in one go.

They are a suggestion. The sheet writes them as a table, `groups.csv`, that every verb takes as the
photos, and says the rule if the names of the photos have one.
"""

import csv
import io
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

from photo_folder.groups import suggestion
from photo_folder.names import shell
from training.data.dataset import Photo, PhotoFolder
from training.datasheet.looks import Look
from training.files import write_text

TABLE = "groups.csv"
_GAP_S = 60.0
"""Photos of a class by one camera belong together if one follows the other within this time."""
_LEAST_SHARE = 0.2
"""Of the photos, in groups of two or more, for groups to be suggested."""


def found(
    photos: Sequence[Photo], looks: Sequence[Look | None], copies: Iterable[Sequence[Photo]]
) -> tuple[str, ...]:
    """Return a group for each photo, in the order of the photos; empty for one that stands alone.

    Args:
        photos: (N,), of a folder.
        looks: (N,), what each is like; None for an unreadable one.
        copies: The photos of each picture that is there more than once.
    """
    row_of = {photo.path: row for row, photo in enumerate(photos)}
    first = list(range(len(photos)))

    def root(row: int) -> int:
        while first[row] != row:
            first[row] = first[first[row]]
            row = first[row]
        return row

    def join(rows: Sequence[int]) -> None:
        for row in rows[1:]:
            one, other = sorted((root(rows[0]), root(row)))
            first[other] = one

    for group in copies:
        join([row_of[photo.path] for photo in group])
    cameras: dict[tuple[int, str], list[tuple[float, int]]] = defaultdict(list)
    for row, (photo, look) in enumerate(zip(photos, looks, strict=True)):
        if look is not None and look.camera:
            cameras[photo.target, look.camera].append((look.taken_s, row))
    for taken in cameras.values():
        taken.sort()
        for (before_s, before), (after_s, after) in pairwise(taken):
            if after_s - before_s <= _GAP_S:
                join([before, after])
    roots = [root(row) for row in range(len(photos))]
    sizes = Counter(roots)
    return tuple(f"burst {row + 1}" if sizes[row] > 1 else "" for row in roots)


def advice(folder: PhotoFolder, bursts: Sequence[str]) -> tuple[str, str]:
    """Return what to do about photos that come in bursts, and the rule by name if there is one.

    Both are empty where photos are in groups already, or where few share one.
    """
    if any(photo.group for photo in folder.photos):
        return "", ""
    classes: dict[str, list[str]] = defaultdict(list)
    for photo in folder.photos:
        classes[folder.labels[photo.target]].append(folder.name(photo))
    if rule := suggestion(classes):
        return (
            f"names say that photos come in bursts; keep each in one split: --group {shell(rule)}",
            rule,
        )
    shared = sum(bool(burst) for burst in bursts)
    if shared < _LEAST_SHARE * len(bursts):
        return "", ""
    return (
        f"{shared} of {len(bursts)} photos come in {len(set(bursts) - {''})} bursts (copies, or one"
        f" camera within {_GAP_S:.0f} s); to keep each in one split, give the sheet's {TABLE} as"
        " the photos",
        "",
    )


def write_table(folder: PhotoFolder, bursts: Sequence[str], out: Path) -> None:
    """Write the photos with their bursts as a table; splits that were drawn are left out."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    given = folder.seed is None and all(photo.split for photo in folder.photos)
    rows.writerow(["path", "label", "group", *(["split"] if given else [])])
    for photo, burst in zip(folder.photos, bursts, strict=True):
        path = os.path.relpath(photo.path.absolute(), out.absolute())
        rows.writerow([path, folder.labels[photo.target], photo.group or burst,
                       *([photo.split] if given else [])])  # fmt: skip
    write_text(out / TABLE, text.getvalue())
