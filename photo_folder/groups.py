r"""Which photos belong together, so that no split parts them: of one object, shop, session, camera.

A table says it in its column `group`. For a folder, a rule does:

folder                  photos of one folder below a class folder
(\w+?\d+)[ST]           photos in whose paths the expression finds the same words
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from photo_folder.errors import FolderError
from photo_folder.found import Found, Scanned
from photo_folder.names import printable

BY_FOLDER = "folder"
_LEAST_PHOTOS = 3
"""Of a class, in the mean burst of it, for the burst to be worth a suggestion."""

_SUGGESTED = (
    r"([^/\d]*\d+)[^/]*[^/\d][^/]*\d[^/]*$",
    r"([^/]*?)[^/a-zA-Z]*\d+\W*\.\w+$",
)
"""A name up to its first number, where another follows: `apple016S(3)` → `apple016`; and up to its
last: `Granny-Smith_012` → `Granny-Smith`."""


def grouped(found: Scanned, rule: str) -> Scanned:
    """Return what was found with every photo in the group that a rule names.

    Args:
        found: What is in a folder, or in a table; a rule counts more than the table's column.
        rule: `folder`, or a regular expression that is searched for in each path below the root. A
            group's name is what its parentheses hold, or all that it matches without any. Empty
            keeps the groups that are there.

    Raises:
        FolderError: The rule is no regular expression, or puts no photo into a group.
    """
    if not rule:
        return found
    if rule == BY_FOLDER:
        named = [_folder_of(photo, found.homes) for photo in found.photos]
        none = "no photo lies in a folder below a class folder"
    else:
        try:
            expression = re.compile(rule)
        except re.error as error:
            raise FolderError(
                f"--group {rule!r} is no regular expression: {error} (docs/guides/groups.md)"
            ) from error
        named = [_matched(expression, photo.name) for photo in found.photos]
        example = printable(found.photos[0].name) if found.photos else "none"
        none = f"it matches no path below {found.root}, such as {example}"
    if not any(named):
        raise FolderError(f"--group {rule!r} groups nothing: {none}")
    photos = tuple(
        photo._replace(group=printable(group))
        for photo, group in zip(found.photos, named, strict=True)
    )
    return replace(found, photos=photos, notes=(*found.notes, *_notes(photos)))


def parted(groups: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    """Return the groups that lie in several splits, and those splits, sorted.

    Args:
        groups: Group and split of each photo; photos without a group are skipped.
    """
    splits: dict[str, set[str]] = defaultdict(set)
    for group, split in groups:
        if group:
            splits[group].add(split)
    return {group: tuple(sorted(of)) for group, of in sorted(splits.items()) if len(of) > 1}


def suggestion(classes: Mapping[str, Sequence[str]]) -> str:
    """Return a rule for photos that are named in bursts, such as `apple016S(3).jpg`; else nothing.

    Args:
        classes: Class → paths of its photos.
    """
    for rule in _SUGGESTED:
        expression = re.compile(rule)
        several = total = num_groups = 0
        for paths in classes.values():
            bursts = Counter(_matched(expression, path) for path in paths)
            if "" in bursts:
                break
            several += len(bursts) > 1
            num_groups += len(bursts)
            total += len(paths)
        else:
            # One name for all photos of a class, as cameras give them, is no burst.
            if 2 * several > len(classes) and total >= _LEAST_PHOTOS * num_groups:
                return rule
    return ""


def _matched(expression: re.Pattern[str], name: str) -> str:
    # A Mac stores Hangul decomposed; people write it composed.
    match = expression.search(unicodedata.normalize("NFC", name))
    if match is None:
        return ""
    return "/".join(part or "" for part in match.groups()) if match.groups() else match[0]


def _folder_of(photo: Found, homes: Mapping[str, str]) -> str:
    """Return class and folder of a photo that lies below its class folder; else nothing."""
    home = homes.get(photo.split, "")
    below = photo.name[len(home) + 1 if home else 0 :].split("/")[:-1]
    return "/".join(below) if len(below) > 1 else ""


def _notes(photos: Sequence[Found]) -> list[str]:
    alone = sum(not photo.group for photo in photos)
    groups = {photo.group for photo in photos if photo.group}
    notes = [f"{len(photos) - alone} photos are in {len(groups)} groups"]
    if alone:
        example = next(photo.name for photo in photos if not photo.group)
        notes[0] += f"; {alone} are in none, such as {printable(example)}, and each stands alone"
    found = parted((photo.group, photo.split) for photo in photos if photo.split)
    if found:
        name, splits = next(iter(found.items()))
        notes.append(
            f"{len(found)} groups are in several splits, such as {name!r} in"
            f" {' and '.join(splits)}: accuracy on the held-out ones is too good"
        )
    return notes
