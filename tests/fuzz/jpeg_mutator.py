"""Changes JPEGs by their segments: chance alone hardly ever makes a length that fits.

Where two readers part is at the edges of segments: a marker that one of them gives a length, and
the other does not, makes them read on at different places.
"""

import random
from collections.abc import Callable

_SCAN = 0xDA
_BARE = (0x01, 0xD0, 0xD8, 0xD9, 0xFF)
"""Markers that no length follows, and a fill byte."""


def segments(data: bytes) -> list[bytes]:
    """Return what stands before the first scan's data, segment by segment, and all the rest."""
    at, found = 2, [data[:2]]
    while at + 4 <= len(data) and data[at] == 0xFF:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        found.append(data[at:end])
        if data[at + 1] == _SCAN or end > len(data):
            at = end
            break
        at = end
    return [*found, data[at:]]


def mutate(
    data: bytes, most: int, seed: int, others: list[bytes], plain: Callable[[bytes, int], bytes]
) -> bytes:
    """Return a changed input.

    Args:
        data: Any input.
        most: Most bytes of the result.
        seed: The same one makes the same change.
        others: JPEGs to take segments from.
        plain: Changes bytes in the usual ways.
    """
    rng = random.Random(seed)
    if data[:2] != b"\xff\xd8" or rng.random() < 0.5:
        return plain(data, most)
    parts = segments(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        _change(parts, rng, others)
    return b"".join(parts)[:most]


def _change(parts: list[bytes], rng: random.Random, others: list[bytes]) -> None:
    at = rng.randrange(1, len(parts) + 1)
    kind = rng.randrange(6)
    marker = bytes((0xFF, rng.choice((*_BARE, rng.randrange(256)))))
    if kind == 0:  # a marker without a length
        parts.insert(at, marker)
    elif kind == 1:  # a marker whose length spans some of what follows
        spanned = b"".join(parts[at : rng.randrange(at, len(parts) + 1)])
        parts.insert(at, marker + ((2 + len(spanned)) & 0xFFFF).to_bytes(2))
    elif kind == 2:  # a segment of another, or the whole, with its first marker or without
        other = segments(rng.choice(others))
        parts[at:at] = other[rng.randrange(2) :] if rng.random() < 0.3 else [rng.choice(other)]
    elif kind == 3 and at < len(parts):
        del parts[at]
    elif kind == 4 and at < len(parts):
        parts.insert(rng.randrange(1, len(parts)), parts.pop(at))
    else:  # other sizes
        for number, part in enumerate(parts):
            if part[:1] == b"\xff" and part[1:2] in (b"\xc0", b"\xc2") and len(part) > 9:
                size = rng.choice((0, 1, 8, 100, 5000, 65500)).to_bytes(2)
                where = rng.choice((5, 7))
                parts[number] = part[:where] + size + part[where + 2 :]
