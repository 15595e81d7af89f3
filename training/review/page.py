"""The page of a review: what may be wrong among the photos, to be decided by click or key.

It needs no server and asks nobody for anything. Decisions stay in the browser until they are
downloaded as `corrections.csv`, which `hansang relabel` reads.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from markupsafe import Markup

from machine import num_cores
from photo_folder.names import is_unicode, printable
from service.pixels.preprocessing import ImageError, load_square
from training.errors import DataError
from training.files import replacing
from training.pages import page

PHOTOS_A_PAGE = 2000
"""A browser opens so many within seconds, on a phone as well."""

MOST_PAGES = 5
"""Nobody looks at more than 10,000 photos; the least suspicious are left to `review.json`."""

_MOST_HALVED = 20
_EXAMPLES = 6
"""Of each half of a class."""

_SIDES_PX = (256, 192, 128)
_PICTURE_CHARACTERS = 20_000
"""Of one photo as a data URI, so that a page stays below 40 MB; a busier photo is made smaller."""

_PICTURES = "/*PICTURES*/"
_SCRIPTS = ("decisions.js", "classes.js", "map.js", "choices.js", "keys.js", "page.js")
"""One script, in this order; page.js starts it."""
_IN_SCRIPT = str.maketrans({sign: f"\\u{ord(sign):04x}" for sign in "<>&*\u2028\u2029"})
"""What could end a script element or be taken for a mark of the template, as JSON writes it."""


def write_page(review: Mapping[str, Any], data: Path, out: Path) -> list[Path]:
    """Write `review.html`, and `review-2.html` and so on where there are many photos.

    Each holds up to 2,000 photos, 40 MB at the most; there are five at the most. A photo that is
    suspected of several things is on them once. A photo that cannot be read any more is listed
    without its picture. One whose name is no valid Unicode is left out, for no browser could write
    it into the table.

    Args:
        review: What `review.json` holds: `classes`, `suspects`, most suspicious first, `pairs`,
            `halved`, and `place` where these are photos that a service kept there.
        data: The folder of photos, or the table whose folder their names start from.
        out: The folder to write into; it is made.

    Returns:
        The files, the first page first.

    Raises:
        DataError: `out` cannot be written to.
    """
    root = data if data.is_dir() else data.parent
    found = _by_photo(review["suspects"])
    named = [each for each in found if is_unicode(each["photo"])]
    suspects = named[: PHOTOS_A_PAGE * MOST_PAGES]
    count = -(-len(suspects) // PHOTOS_A_PAGE) or 1
    paths = [
        out / ("review.html" if at == 1 else f"review-{at}.html") for at in range(1, count + 1)
    ]
    context = {
        "title": printable(data.resolve().name),
        "root": printable(str(data.resolve())),
        "place": printable(review.get("place", "")),
        "parts": [path.name for path in paths],
        "left_out": len(found) - len(named),
        "beyond": len(named) - len(suspects),
        **_script(),
    }
    shared = {
        "key": f"hansang review {_digest(data, suspects, review.get('place', ''))}",
        "captured": "place" in review,
        "classes": review["classes"],
        "pairs": [[pair["label"], pair["suggested"]] for pair in review.get("pairs", [])],
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        # The first page comes last: what it links to is there.
        for at in reversed(range(count)):
            part = suspects[at * PHOTOS_A_PAGE : (at + 1) * PHOTOS_A_PAGE]
            content = json.dumps({**shared, "photos": _listed(part)}, ensure_ascii=False)
            here = {"part": at, "review": Markup(content.translate(_IN_SCRIPT)),  # noqa: S704
                    "halved": [] if at else _examples(review.get("halved", []), root)}  # fmt: skip
            text = page.render("review/page.html.j2", {**context, **here})
            _write(text, _pictures(part, root), paths[at])
        for old in out.glob("review-*.html"):
            if re.fullmatch(r"review-\d+\.html", old.name) and old not in paths:
                old.unlink()
    except OSError as error:
        raise DataError(
            f"cannot write the review into {out} ({error.strerror}); give another folder"
        ) from error
    return paths


def _script() -> dict[str, Any]:
    """Return the script and its digest, by which the page's policy lets it run."""
    folder = files("training.pages") / "templates" / "review"
    script = "".join((folder / name).read_text("utf-8") for name in _SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return {"script": Markup(script), "script_digest": f"sha256-{digest}"}  # noqa: S704


def _digest(data: Path, suspects: Sequence[Mapping[str, Any]], place: str) -> str:
    """Return what decisions are kept under: the same photos under the same labels, the same.

    Captured photos are named by their content, so what is decided on one holds whatever is beside.
    """
    photos = sorted([each["photo"], each["label"]] for each in suspects)
    text = json.dumps([str(data.resolve()), place or photos])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _by_photo(suspects: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return each photo once, as where it is most suspicious, with all `kinds` and `notes`."""
    photos: dict[str, dict[str, Any]] = {}
    for each in suspects:
        rest = {name: value for name, value in each.items() if name not in ("kind", "note")}
        photo = photos.setdefault(each["photo"], {**rest, "kinds": [], "notes": []})
        photo["kinds"].append(each["kind"])
        photo["notes"] += [each["note"]] if each["note"] else []
    return list(photos.values())


def _listed(part: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return suspects with those of their neighbours that are on the same page."""
    there = {each["photo"] for each in part}
    return [
        {**each, "neighbours": [name for name in each["neighbours"] if name in there]}
        for each in part
    ]


def _examples(halved: Sequence[Mapping[str, Any]], root: Path) -> list[dict[str, Any]]:
    """Return the first classes in two halves, with pictures of what is typical of each half."""
    return [
        {
            "label": printable(each["label"]),
            "halves": [
                {"count": len(half), "pictures": list(filter(None, _small(half, root)))}
                for half in each["halves"]
            ],
        }
        for each in halved[:_MOST_HALVED]
    ]


def _small(half: Sequence[str], root: Path) -> Iterator[str | None]:
    for name in half[:_EXAMPLES]:
        yield _picture(root, name, _SIDES_PX[-1:])


def _write(text: str, pictures: Iterable[str | None], out: Path) -> None:
    """Write a page around its pictures, which are never one string: they take most of it."""
    before, _, after = text.rpartition(_PICTURES)
    with replacing(out) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(f"{before}[")
        for at, picture in enumerate(pictures):
            file.write(f"{',' if at else ''}{json.dumps(picture)}\n")
        file.write(f"]{after}")


def _pictures(part: Sequence[Mapping[str, Any]], root: Path) -> Iterator[str | None]:
    with ThreadPoolExecutor(num_cores(), "review") as pool:
        yield from pool.map(partial(_picture, root), [each["photo"] for each in part])


def _picture(root: Path, name: str, sides_px: Sequence[int] = _SIDES_PX) -> str | None:
    """Return what the model sees of a photo as a data URI; None if it cannot be read."""
    try:
        square = load_square((root / name).read_bytes(), sides_px[0])
    except (ImageError, OSError):
        return None
    shrunk = (page.picture(square, side) for side in sides_px)
    return next((uri for uri in shrunk if len(uri) <= _PICTURE_CHARACTERS), None)
