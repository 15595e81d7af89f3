"""Nearest photos in a model's features, and where photos lie on a map of them.

Shapes: N photos, Q photos that are asked about, D features, k neighbours.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_BLOCK = 256
"""Photos compared with all others at a time: 33,593 of them take 34 MB."""
_MAP_PHOTOS = 20_000
"""Photos that the axes of the map are computed from; all are placed on them."""


@dataclass(frozen=True, slots=True)
class Nearest:
    """The photos that look most alike, the nearest first."""

    rows: NDArray[np.int64]
    """[Q, k], never the photo itself."""
    similarity: NDArray[np.float32]
    """[Q, k], cosines."""


def nearest(features: NDArray[np.float32], asked: NDArray[np.int64], k: int) -> Nearest:
    """Return the k nearest of all photos (N, D) for each photo that is asked about (Q,)."""
    unit = _unit(features)
    k = min(k, len(unit) - 1)
    rows = np.empty((len(asked), k), np.int64)
    similarity = np.empty((len(asked), k), np.float32)
    for start in range(0, len(asked), _BLOCK):
        block = asked[start : start + _BLOCK]
        cosines = unit[block] @ unit.T
        cosines[np.arange(len(block)), block] = -2  # not itself
        found = np.argpartition(-cosines, k - 1, axis=1)[:, :k]
        values = np.take_along_axis(cosines, found, 1)
        order = np.argsort(-values, axis=1, kind="stable")
        rows[start : start + len(block)] = np.take_along_axis(found, order, 1)
        similarity[start : start + len(block)] = np.take_along_axis(values, order, 1)
    return Nearest(rows, similarity)


def positions(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return each photo's place on the first two principal components, (N, 2), from 0 to 1."""
    from sklearn.decomposition import PCA

    unit = _unit(features)
    step = -(-len(unit) // _MAP_PHOTOS)
    found = PCA(2, svd_solver="randomized", random_state=0).fit(unit[::step]).transform(unit)
    low, high = found.min(0), found.max(0)
    placed: NDArray[np.float32] = ((found - low) / np.maximum(high - low, 1e-9)).astype(np.float32)
    return placed


def _unit(features: NDArray[np.float32]) -> NDArray[np.float32]:
    rows = np.asarray(features, np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    found: NDArray[np.float32] = rows / np.maximum(lengths, 1e-9)
    return found
