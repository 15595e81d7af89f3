"""Splits that are drawn: where a photo goes is a function of itself, and of no other photo.

A keyed hash of its unit (its group, or its content where it has none) is a number from 0 to 1.
Below 0.1 is val, below 0.2 test, the rest train. So a new photo, or a new class, moves no other;
copies of a file stay together; and what is held out stays held out, night after night.

Only a class that has nothing in a split borrows a unit, until it has one of its own there.
"""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence

RULE = "hash"
"""What a cache says of splits that were drawn here. Before, a new photo drew all of them anew."""

_UP_TO = {"val": 0.1, "test": 0.2}
_KEPT = 1 / 3
"""Of the validation photos, for judging: the others still choose, and both need enough photos."""
_LEAST_UNITS = {"val": 2, "test": 3}
"""Of a class, for it to borrow a unit: two are one to train and one to validate."""


def draw(units: Sequence[str], targets: Sequence[int], seed: int) -> list[str]:
    """Return the split of each photo; a class of one unit has it in one split only.

    Args:
        units: (N,), what stays together: a group, or the hash of a content.
        targets: (N,), the class of each photo.
        seed: The key. Another one draws other splits.
    """
    place = {unit: _place(unit, seed) for unit in units}
    split = {unit: _split_at(place[unit]) for unit in place}
    classes_of: dict[str, set[int]] = defaultdict(set)
    of_class: dict[int, list[str]] = defaultdict(list)
    # By their places, so that the order of the photos decides nothing.
    for unit, target in sorted(set(zip(units, targets, strict=True)), key=lambda p: place[p[0]]):
        classes_of[unit].add(target)
        of_class[target].append(unit)
    for target in sorted(of_class):
        members = of_class[target]
        if all(split[unit] != "train" for unit in members):
            split[members[-1]] = "train"
    for wanted in _UP_TO:
        for target in sorted(of_class):
            members = of_class[target]
            if len(members) < _LEAST_UNITS[wanted] or wanted in {split[u] for u in members}:
                continue
            spare = [u for u in members if _is_spare(u, split, classes_of, of_class)]
            if wanted == "val" and not spare:
                spare = [u for u in members if split[u] == "test"]
            if spare:
                split[spare[0]] = wanted
    return [split[unit] for unit in units]


def kept_for_judging(units: Sequence[str], targets: Sequence[int]) -> list[bool]:
    """Return which validation photos are kept to judge what the others choose: a third of them.

    As with splits, a unit's hash says so, and no other photo. Only where each photo of a class
    would be kept, one of its units is not.

    Args:
        units: (N,), what stays together.
        targets: (N,), the class of each photo.
    """
    place = {unit: _place(unit, "judging") for unit in units}
    kept = {unit: place[unit] < _KEPT for unit in units}
    of_class: dict[int, set[str]] = defaultdict(set)
    for unit, target in zip(units, targets, strict=True):
        of_class[target].add(unit)
    for target in sorted(of_class):
        if all(kept[unit] for unit in of_class[target]):
            kept[max(of_class[target], key=lambda unit: place[unit])] = False
    return [kept[unit] for unit in units]


def _place(unit: str, seed: int | str) -> float:
    key = f"hansang split {seed}".encode()
    digest = hashlib.blake2b(unit.encode(errors="surrogateescape"), key=key, digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _split_at(place: float) -> str:
    return next((split for split, up_to in _UP_TO.items() if place < up_to), "train")


def _is_spare(
    unit: str,
    split: Mapping[str, str],
    classes_of: Mapping[str, set[int]],
    of_class: Mapping[int, Sequence[str]],
) -> bool:
    """Return whether each class of a unit has another one to train on."""
    return split[unit] == "train" and all(
        any(split[other] == "train" for other in of_class[target] if other != unit)
        for target in classes_of[unit]
    )
