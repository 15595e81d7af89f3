"""What is found in a folder or a table of photos, and which names are refused."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from photo_folder.left_out import LeftOut
from photo_folder.names import has_control, is_unicode, look_alikes, printable, shell


class Found(NamedTuple):
    """A photo of a class."""

    name: str
    """Its path below the root, with `/`; a table may name one that lies elsewhere."""
    label: str
    """In Unicode NFC."""
    split: str
    """train, val or test; empty where it is to be drawn."""
    group: str
    """What it shares with others, such as the object or the shop; empty if that is not known."""
    num_bytes: int
    mtime_ns: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Scanned:
    """What is in a folder, or in a table."""

    root: Path
    """What names of photos begin from."""
    title: str
    """What runs and caches are named after."""
    photos: tuple[Found, ...]
    """Sorted by their paths."""
    homes: dict[str, str] = field(default_factory=dict)
    """Split, or "" where there are none → the folder below the root that holds its class folders;
    empty for a table."""
    left_out: LeftOut = field(default_factory=LeftOut)
    notes: tuple[str, ...] = ()
    """What was understood and is not plain to see, and names that look alike."""
    refusal: str = ""
    """Why these photos are no set to train on, and the way out; empty if they may be one."""


def look_alike_notes(labels: list[str]) -> list[str]:
    """Return a line for labels that people would take for one; no line if there are none."""
    alike = look_alikes(labels)
    if not alike:
        return []
    shown = "; ".join(" and ".join(map(repr, group)) for group in alike[:5])
    more = f" and {len(alike) - 5} more" if len(alike) > 5 else ""
    return [f"classes that look alike, are they one? {shown}{more}"]


def refused_name(name: str, where: object) -> str:
    """Return why a class or a photo cannot have this name; empty if it can."""
    if not is_unicode(name):
        return (
            f"the name {printable(name)} in {printable(str(where))} is not UTF-8 (a zip made with"
            f" another encoding?); rename it, for example: convmv -f cp949 -t utf8 -r --notest"
            f" {shell(where)}"
        )
    if has_control(name):
        return f"the name {name!r} in {where} has a control character; rename it"
    return ""
