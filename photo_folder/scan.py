"""The one look at photos that every verb takes: those to learn from, and those to classify."""

from collections.abc import Iterator
from pathlib import Path

from photo_folder.errors import FolderError
from photo_folder.folder import scan_folder
from photo_folder.found import Scanned
from photo_folder.groups import grouped
from photo_folder.left_out import LeftOut
from photo_folder.manifest import is_manifest, scan_manifest
from photo_folder.names import printable
from photo_folder.reading import reason
from photo_folder.walk import walk


def scan(place: Path, *, group: str = "") -> Scanned:
    """Find the photos of a folder or a table, the class of each, and its group (see `groups.py`).

    Raises:
        FolderError: There is no such folder or table, it cannot be read, it has no photos, or the
            rule for groups fits none of them.
    """
    return grouped(scan_manifest(place) if is_manifest(place) else scan_folder(place), group)


def photos_in(place: Path, left_out: LeftOut) -> Iterator[tuple[Path, int]]:
    """Yield path and bytes of each photo of a folder or a table, or of the one that is named.

    Photos need no class here. A folder may be of any size: one folder's names are in memory.

    Raises:
        FolderError: Nothing is there, or it cannot be read.
    """
    try:
        if place.is_dir():
            for file in walk(place, left_out.add):
                yield place / file.name, file.num_bytes
        elif is_manifest(place):
            listed = scan_manifest(place, labels=False)
            left_out.join(listed.left_out)
            for photo in listed.photos:
                yield listed.root / photo.name, photo.num_bytes
        elif place.is_file():
            yield place, place.stat().st_size
        else:
            raise FolderError(f"there is no photo or folder {printable(str(place))}")
    except OSError as error:
        raise FolderError(f"{printable(str(place))} cannot be read: {reason(error)}") from error
