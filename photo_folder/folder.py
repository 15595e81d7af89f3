"""A folder of photos → the photos, each with its class, and what was left out."""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from photo_folder.errors import FolderError
from photo_folder.found import Found, Scanned, look_alike_notes, refused_name
from photo_folder.layout import Layout, Parts, layout, split_of
from photo_folder.left_out import LeftOut
from photo_folder.names import Kind, is_unicode, printable
from photo_folder.reading import reason
from photo_folder.walk import File, walk


def scan_folder(root: Path) -> Scanned:
    """Find the photos of a folder and the class of each: the first folder below the split's.

    Raises:
        FolderError: There is no such folder, it cannot be read, or no photo is in it.
    """
    left: list[tuple[str, Kind, str]] = []
    files = _files(root, left)
    found = layout(tuple(file.name.split("/")) for file in files)
    labelled = list(_labelled(files, found, left))
    left_out = LeftOut()
    without = _without_photos(labelled, found, left)
    for name, kind, detail in left:
        left_out.add(name, kind, detail)
    if not files:
        raise FolderError(_no_photos(root, left_out))
    photos, refusal = _named(root, labelled)
    if not refusal and not labelled:
        refusal = (
            f"{len(files)} photos lie directly in {root}, and none in a class folder; put them into"
            " a folder for each class, or give a table of them (path,label) instead"
        )
    labels = sorted({photo.label for photo in photos})
    return Scanned(
        root=root,
        title=root.resolve().name,
        photos=photos,
        homes={split: "/".join(parent) for parent, split in found.parents.items()},
        left_out=left_out,
        notes=(*found.notes, *_nested_note(labelled), *look_alike_notes(labels)),
        refusal=refusal
        or _locked(root, found, left)
        or (f"{root} has {found.refusal}" if found.refusal else "")
        or without,
    )


def _files(root: Path, left: list[tuple[str, Kind, str]]) -> list[File]:
    try:
        if not root.is_dir():
            raise FolderError(_no_folder(root))
        return list(walk(root, lambda *what: left.append(what)))
    except OSError as error:
        raise FolderError(f"{root} cannot be read: {reason(error)}") from error


def _labelled(
    files: list[File], found: Layout, left: list[tuple[str, Kind, str]]
) -> Iterator[tuple[File, Parts, str, str]]:
    """Yield each photo of a class: the folder of its class folder, its split, its class."""
    for file in files:
        parts = tuple(file.name.split("/"))
        for parent, split in found.parents.items():
            if parts[: len(parent)] != parent:
                continue
            if len(parts) > len(parent) + 1:
                yield file, parent, split, parts[len(parent)]
            else:
                left.append((file.name, Kind.LOOSE, ""))
            break
        else:
            # In the folder of the classes, or in one that is wrapped around it.
            loose = len(parts) <= len(found.base) + 1
            left.append((file.name, Kind.LOOSE if loose else Kind.ASIDE, ""))


def _without_photos(
    labelled: list[tuple[File, Parts, str, str]], found: Layout, left: list[tuple[str, Kind, str]]
) -> str:
    """Tell folders without a photo apart: the empty ones are left out, others perhaps a class.

    Returns:
        Why a class folder with pictures that cannot be read is refused; empty if there is none.
    """
    classes = {(parent, label) for _, parent, _, label in labelled}
    inside: dict[Parts, Counter[tuple[Kind, str]]] = defaultdict(Counter)
    for name, kind, detail in left:
        parts = tuple(name.split("/"))
        for parent in found.parents:
            if parts[: len(parent)] != parent:
                continue
            # A file beside class folders is none.
            is_folder = len(parts) > len(parent) + 1 or kind is Kind.EMPTY
            if is_folder and (parent, parts[len(parent)]) not in classes:
                inside[parts[: len(parent) + 1]][kind, detail] += 1
            break
    refused = []
    for folder, counts in sorted(inside.items()):
        if odd := refused_name(folder[-1], "/".join(folder[:-1]) or "."):
            return odd
        # Beside a list or a program, what has no suffix is a README.
        no_suffix = () if any(kind is Kind.OTHER for kind, _ in counts) else (Kind.NO_SUFFIX,)
        pictures = [
            f"{count} {detail or kind}"
            for (kind, detail), count in counts.items()
            if kind in (Kind.PICTURE, Kind.BROKEN_LINK, *no_suffix)
        ]
        if pictures:
            refused.append(f"{printable('/'.join(folder))} ({', '.join(pictures)})")
        elif not any(kind in (Kind.EMPTY, Kind.UNREADABLE) for kind, _ in counts):
            left.append(("/".join(folder), Kind.EMPTY, ""))
    if not refused:
        return ""
    more = f" and {len(refused) - 3} more" if len(refused) > 3 else ""
    return (
        f"no photo that can be read in class folder {', '.join(refused[:3])}{more}; convert them to"
        " JPEG or PNG, or move the folder away"
    )


def _locked(root: Path, found: Layout, left: list[tuple[str, Kind, str]]) -> str:
    """Return why a split that cannot be read is refused: without it the others mean another set."""
    for name, kind, why in left:
        *parent, last = name.split("/")
        if kind is Kind.UNREADABLE and tuple(parent) == found.base and split_of(last):
            return f"{root / name} cannot be read ({why}); give the right to read it, or move it"
    return ""


def _nested_note(labelled: list[tuple[File, Parts, str, str]]) -> list[str]:
    """Return a line where photos lie below class folders: perhaps these are no classes."""
    deep = [
        (parent, label, rest)
        for file, parent, _, label in labelled
        if len(rest := file.name.split("/")[len(parent) + 1 :]) > 1
    ]
    if not deep:
        return []
    parent, label, rest = deep[0]
    example = printable("/".join((*parent, label, rest[0])))
    return [
        f"{len(deep)} photos lie in folders below class folders, such as {example}, and count for"
        f" the class {printable(label)!r}; if these are the classes, move them up, or give a table"
    ]


def _named(
    root: Path, labelled: list[tuple[File, Parts, str, str]]
) -> tuple[tuple[Found, ...], str]:
    """Return the photos under the names of their classes, and why names are refused."""
    refusal = refused_name(str(root.resolve()), root.resolve().parent)
    origin: dict[tuple[str, str], str] = {}
    photos = []
    for file, parent, split, folder in labelled:
        # A Mac stores Hangul decomposed (NFD); every other system composes it.
        label = unicodedata.normalize("NFC", folder)
        first = origin.setdefault((split, label), folder)
        if not refusal and first != folder:
            refusal = (
                f"{root.joinpath(*parent)} has two folders named {label!r}: {first!r} and"
                f" {folder!r} differ only in Unicode form; merge them"
            )
        if not refusal:
            refusal = refused_name(folder, root.joinpath(*parent))
        if not refusal and not is_unicode(file.name):
            refusal = refused_name(file.name, root)
        photos.append(Found(file.name, printable(label), split, "", file.num_bytes, file.mtime_ns))
    return tuple(photos), refusal


def _no_folder(root: Path) -> str:
    text = printable(str(root))
    if text.startswith("s3:"):
        return (
            f"{text}: a folder of this machine is needed here, and not a bucket; inspect, prepare,"
            " train and pipeline take one"
        )
    if not root.exists():
        return f"{text} is not a folder, nothing is there; give a folder of photos"
    if root.suffix.lower() in (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar"):
        return f"{text} is an archive; unpack it, and give the folder"
    return f"{text} is not a folder; give a folder of photos, or a table of them (.csv, .toml)"


def _no_photos(root: Path, left_out: LeftOut) -> str:
    there = "; ".join(left_out.lines()) or "it is empty"
    return (
        f"{printable(str(root))} has no photos ({there}); give a folder with a folder of photos for"
        " each class"
    )
