"""What is classified, cut into parts: written down once, so that a part means the same for ever.

plan.json                  what was asked, and how many parts there are; written after the lists
parts/<plan>/000012.jsonl  the photos of a part, `[name, bytes]` a line
answers/000012.jsonl       its answers, a line for each of these photos; all of them, or not there
failed/000012.tsv          those of its photos that have an error instead of an answer, and why

Whoever answers a part writes the same file, so that a part that was answered twice, because its
worker was taken for dead, is answered once.
"""

import dataclasses
import json
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from photo_folder.left_out import LeftOut
from service.offline.photos import Photo, found
from storage import Storage
from terminal import UserError

_FORMAT = 1
_PLAN = "plan.json"
_LIST = re.compile(r"parts/[0-9a-f]{12}/[0-9]{6,}\.jsonl")


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """What was asked for; another wish needs another place for its answers."""

    photos: tuple[str, ...]
    model: str
    version: int
    top_k: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The parts of a wish."""

    name: str
    wish: Wish
    num_photos: int
    num_parts: int
    part_size: int
    left_out: tuple[str, ...] = ()
    """What was no photo where these were found, in two lines at most."""

    def photos_file(self, part: int) -> str:
        """Return where the photos of a part are listed."""
        return f"parts/{self.name}/{part:06d}.jsonl"


def answers_file(part: int) -> str:
    """Return where the answers of a part are written."""
    return f"answers/{part:06d}.jsonl"


def failed_file(part: int) -> str:
    """Return where the photos of a part that have no answer are written."""
    return f"failed/{part:06d}.tsv"


def photos_of(out: Storage, plan: Plan, part: int) -> list[Photo]:
    """Return the photos of a part.

    Raises:
        UserError: Their list is gone.
    """
    data = out.read(plan.photos_file(part))
    if data is None:
        raise UserError(f"{out.url}/{plan.photos_file(part)} is gone; choose another --out")
    return [Photo(*json.loads(line)) for line in data.decode().splitlines()]


def read(out: Storage) -> Plan | None:
    """Return the plan that was made there; None if there is none.

    Raises:
        UserError: It is damaged, or of another version of Hansang.
    """
    data = out.read(_PLAN)
    if data is None:
        return None
    try:
        told = json.loads(data)
        if told.pop("format") != _FORMAT:
            raise ValueError("another format")
        wish = told.pop("wish")
        told["left_out"] = tuple(told.get("left_out", ()))
        return Plan(wish=Wish(**{**wish, "photos": tuple(wish["photos"])}), **told)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{out.url}/{_PLAN} is no plan ({error}); choose another --out") from error


def make(
    out: Storage, wish: Wish, part_size: int, seen: Callable[[int], object] = lambda _: None
) -> Plan:
    """Find the photos and write down the parts; of several that do so at a time, one's plan holds.

    Args:
        out: Where.
        wish: What was asked for.
        part_size: Photos of a part.
        seen: Is told how many photos were found so far.

    Raises:
        UserError: There are no photos.
    """
    name = uuid.uuid4().hex[:12]
    plan = Plan(name=name, wish=wish, num_photos=0, num_parts=0, part_size=part_size)
    count = parts = 0
    left_out = LeftOut()
    for photos in _cut(found(wish.photos, left_out), part_size):
        lines = "".join(json.dumps(photo) + "\n" for photo in photos)
        out.write(plan.photos_file(parts), lines.encode())
        count, parts = count + len(photos), parts + 1
        seen(count)
    if not count:
        there = "".join(f" ({line})" for line in left_out.lines())
        raise UserError(f"no photos there{there}; give photos, or folders with photos in them")
    plan = dataclasses.replace(
        plan, num_photos=count, num_parts=parts, left_out=tuple(left_out.lines())
    )
    told = {"format": _FORMAT, **dataclasses.asdict(plan)}
    if not out.create(
        _PLAN, json.dumps(told, ensure_ascii=False, indent=1).encode(errors="backslashreplace")
    ):
        plan = read(out) or plan
    # What a plan left that was not finished, or that came second; and nothing of anybody else's.
    for left in out.names("parts"):
        if _LIST.fullmatch(left) and not left.startswith(f"parts/{plan.name}/"):
            out.remove(left)
    return plan


def _cut(photos: Iterable[Photo], size: int) -> Iterator[Sequence[Photo]]:
    rest = iter(photos)
    while part := list(islice(rest, size)):
        yield part
