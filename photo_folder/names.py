"""What a name says: a photo, a picture that is not read here, or what a system left behind."""

import re
import shlex
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from enum import StrEnum

from service.pixels.formats import of_suffix, readable_suffixes

PHOTO_SUFFIXES = frozenset(readable_suffixes())
"""Of files that are decoded; capitals do not matter."""

_MORE_PICTURES = frozenset({".raw", ".tga", ".ppm", ".pgm", ".pbm", ".pnm", ".jxr", ".exr"})
"""Of pictures that `service/pixels/formats.py` does not tell apart."""

_JUNK = frozenset({
    "__macosx", ".ds_store", ".appledouble", ".spotlight-v100", ".fseventsd", ".trashes",
    ".temporaryitems", ".apdisk", ".documentrevisions-v100", "network trash folder",
    "temporary items", "icon\r",
    "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "$recycle.bin", "recycler",
    "recycled", "system volume information", "found.000",
    "@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "@tmp", ".@__thumb",
    ".@__qini", "lost+found", ".trash", ".trash-0", ".trash-1000", ".directory", ".nomedia",
    ".thumbnails", ".dtrash", ".picasaoriginals", ".picasa.ini", "picasa.ini", "zbthumbnail.info",
    ".stfolder", ".stversions", ".dropbox", ".dropbox.cache", ".git", ".gitkeep", ".gitignore",
    ".gitattributes", ".ipynb_checkpoints", "__pycache__", "node_modules", ".cache",
    ".relabels.jsonl",
})  # fmt: skip
"""What systems, network drives and tools put beside photos, in lower case."""

_BESIDE = (":zone.identifier", "@synoeastream", "@synoresource")
"""How files end that Windows, for what was downloaded, and a network drive put beside each file."""

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class Kind(StrEnum):
    """Why something in a folder is no photo of a class."""

    PICTURE = "format that is not read here"
    NO_SUFFIX = "without a suffix"
    LOOSE = "beside class folders"
    ASIDE = "beside the splits"
    UNREADABLE = "cannot be read"
    UNLABELLED = "without a label"
    REPEATED = "listed twice"
    BROKEN_LINK = "broken link"
    LOOP = "link into a loop"
    SPECIAL = "no file"
    EMPTY = "folder without photos"
    OTHER = "no picture"
    HIDDEN = "hidden"
    JUNK = "left by a system"


def suffix_of(name: str) -> str:
    """Return a file's suffix in lower case, `.jpg`; empty if it has none."""
    stem, dot, suffix = name.strip().lower().rpartition(".")
    return f".{suffix}" if stem.strip(".") and dot and suffix else ""


def junk(name: str) -> str:
    """Return what a system left, for people: its name, or what all of its kind have in common."""
    name = name.rsplit("/", 1)[-1]
    lower = name.lower()
    if lower.startswith("._"):  # of each photo that a Mac copied
        return "._*"
    if lower.endswith(_BESIDE):
        return f"*{next(end for end in _BESIDE if lower.endswith(end))}"
    return name if lower in _JUNK else ""


def passed_over(name: str) -> Kind | None:
    """Return why a file or folder of this name is not even looked into; None if it is."""
    if junk(name):
        return Kind.JUNK
    return Kind.HIDDEN if name.startswith(".") else None


def kind_of(name: str) -> Kind | None:
    """Return why a file is no photo by its name; None if it is one."""
    if passed := passed_over(name):
        return passed
    suffix = suffix_of(name)
    # What was fetched from the web may have the question in its name: `1.jpg?w=640`.
    if suffix in PHOTO_SUFFIXES or suffix_of(name.partition("?")[0]) in PHOTO_SUFFIXES:
        return None
    # Where a picture is not decoded, a person may miss it.
    if suffix in _MORE_PICTURES or of_suffix(suffix) is not None:
        return Kind.PICTURE
    return Kind.OTHER if suffix else Kind.NO_SUFFIX


def advice_for(suffix: str) -> str:
    """Return how to make a photo of a picture that is not read here."""
    kind = of_suffix(suffix)
    return kind.advice.format(suffix=suffix) if kind else "save it as JPEG"


def printable(name: str) -> str:
    r"""Return a name in one line of valid Unicode: what is neither becomes `\n` or `\xb1`."""

    def escaped(found: re.Match[str]) -> str:
        code = ord(found[0])
        # Python keeps a byte that is no UTF-8 as U+DC80 to U+DCFF.
        if 0xDC80 <= code <= 0xDCFF:
            return f"\\x{code - 0xDC00:02x}"
        return found[0].encode("unicode_escape").decode()

    return _UNPRINTABLE.sub(escaped, name)


def shell(path: object) -> str:
    """Return a path as a shell takes it, for the commands in messages."""
    return shlex.quote(printable(str(path)))


def is_unicode(name: str) -> bool:
    """Return whether a name is valid Unicode: its bytes on the disk are UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def has_control(name: str) -> bool:
    """Return whether a name has a line break, a tab or another character that is no sign."""
    return _CONTROL.search(name) is not None


def look_alikes(labels: Iterable[str]) -> list[list[str]]:
    """Return the groups of labels that people take for one: by case, spaces, marks, forms."""
    groups: dict[str, list[str]] = defaultdict(list)
    for label in labels:
        groups[_folded(label)].append(label)
    return [group for group in groups.values() if len(group) > 1]


def _folded(label: str) -> str:
    folded = unicodedata.normalize("NFKC", label).casefold()
    # Such as a joiner of no width, which nobody sees.
    seen = "".join(sign for sign in folded if unicodedata.category(sign) != "Cf")
    return re.sub(r"[\s_-]+", " ", seen).strip()
