"""Copies among photos: equal bytes, and equal pictures after resizing or recompression.

SHA-256 ─► exact copies
perceptual hash (pHash, 64 bits, of ImageHash) ─► pairs at most `NEAR_BITS` apart
  ─► both looked at again: pairs whose pixels agree ─► near copies

A hash alone raises false alarms among photos of one shelf; pixels settle it.

Shapes: N photos, S side of the small squares that are compared.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from terminal import Progress, no_progress

NEAR_BITS = 10
"""Pairs whose hashes differ in more of their 64 bits are no candidates."""

LEAST_CORRELATION = 0.97
"""Of the colours of two squares. 800 copies (scaled by 0.35 to 1.5, JPEG quality 20 to 85) of real
photos had 0.977 and more; the most similar pair of 3,854 different photos of groceries 0.955."""

MOST_LOCAL_DIFFERENCE = 8.0
"""Of 255 levels, in any 4 x 4 pixels, exposure aside: what tells another fruit on the same plate
from a copy. Of the same 800 copies two had more, 8.2 and 9.6."""

SIDE = 32
_BLOCK = 256
_FLAT = 2.0


@dataclass(frozen=True, slots=True)
class Group:
    """Photos that are one picture."""

    kind: Literal["exact", "near"]
    """`exact`: all have the same bytes. `near`: some were resized, recompressed or edited."""
    members: tuple[int, ...]
    """Positions of the photos, in their order; two or more."""


def perceptual_hash(square_HWC: NDArray[np.uint8]) -> int:
    """Return the 64-bit pHash of a picture."""
    bits = imagehash.phash(Image.fromarray(square_HWC)).hash
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def find(
    digests: Sequence[str],
    hashes: Sequence[int],
    look: Callable[[int], NDArray[np.uint8] | None],
    progress: Progress = no_progress,
) -> list[Group]:
    """Return the groups of copies, in the order of their first photo.

    Args:
        digests: [N] SHA-256 of each file.
        hashes: [N] perceptual hash of each photo.
        look: Position → the photo, uint8 (S, S, 3), or None if it cannot be read any more.
        progress: Told of the photos whose candidates were looked at.
    """
    same: dict[str, list[int]] = defaultdict(list)
    for index, digest in enumerate(digests):
        same[digest].append(index)
    # One of each set of exact copies stands for all.
    firsts = [members[0] for members in same.values()]
    parent = list(range(len(firsts)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    seen: dict[int, NDArray[np.uint8] | None] = {}
    # Not a list: photos of one table give a great many candidates.
    for a, b in _near_pairs(np.array([hashes[i] for i in firsts], np.uint64)):
        progress(a, len(firsts), "comparing")
        if root(a) == root(b):
            continue
        for index in (a, b):
            if index not in seen:
                seen[index] = look(firsts[index])
        first, second = seen[a], seen[b]
        if first is not None and second is not None and same_picture(first, second):
            parent[max(root(a), root(b))] = min(root(a), root(b))
    joined: dict[int, list[int]] = defaultdict(list)
    for index in range(len(firsts)):
        joined[root(index)].append(index)
    groups = []
    for indices in joined.values():
        members = sorted(m for index in indices for m in same[digests[firsts[index]]])
        if len(members) > 1:
            groups.append(Group("exact" if len(indices) == 1 else "near", tuple(members)))
    return sorted(groups, key=lambda group: group.members)


def same_picture(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> bool:
    """Return whether two small squares (SIDE, SIDE, 3) show one picture, in all of their parts."""
    x, y = first.astype(np.float64), second.astype(np.float64)
    difference = float(np.abs(x - y).mean())
    x, y = x - x.mean((0, 1)), y - y.mean((0, 1))
    spread_x, spread_y = float(np.sqrt((x**2).mean())), float(np.sqrt((y**2).mean()))
    if spread_x < _FLAT or spread_y < _FLAT:
        # One colour all over has nothing to correlate.
        return difference < _FLAT
    if float((x * y).mean()) / (spread_x * spread_y) < LEAST_CORRELATION:
        return False
    blocks = (x - y).reshape(SIDE // 4, 4, SIDE // 4, 4, 3).mean((1, 3))
    return float(np.abs(blocks).max()) <= MOST_LOCAL_DIFFERENCE


def _near_pairs(hashes: NDArray[np.uint64]) -> Iterator[tuple[int, int]]:
    """Yield positions of hashes at most `NEAR_BITS` apart, a block of rows at a time."""
    for start in range(0, len(hashes), _BLOCK):
        rows = hashes[start : start + _BLOCK]
        apart = np.bitwise_count(rows[:, None] ^ hashes[None, start:])
        for row, column in np.argwhere(apart <= NEAR_BITS).tolist():
            if column > row:
                yield start + row, start + column
