"""How well frozen features tell classes apart: a linear probe, and the nearest class mean.

Shapes: N photos, D features, K classes.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from training.data.cache import DatasetCache
from training.errors import DataError
from training.model.cached_features import cached_features
from training.model.stages import HEAD

_DECAY = 1e-3
"""Of the probe's weights, on features of mean 0 and deviation 1."""

_STEPS = 100


@dataclass(frozen=True, slots=True)
class Features:
    """The output of everything before the head on two splits, from the centre of each photo."""

    train: NDArray[np.float32]
    """[N, D]"""
    train_targets: NDArray[np.int64]
    val: NDArray[np.float32]
    val_targets: NDArray[np.int64]
    num_classes: int


def features_of(model: nn.Module, cache: DatasetCache) -> Features:
    """Return the features of a set of photos.

    Raises:
        DataError: The disk has no room for them.
    """
    found = {}
    for split in ("train", "val"):
        made = cached_features(cache, split, model, HEAD, image_size=cache.image_size)
        if made is None:
            raise DataError(f"no space for features beside {cache.path}; free some")
        found[split] = made
    return Features(
        np.asarray(found["train"].images, np.float32), found["train"].targets,
        np.asarray(found["val"].images, np.float32), found["val"].targets, len(cache.labels),
    )  # fmt: skip


def linear_probe(features: Features) -> NDArray[np.bool_]:
    """Return which validation photos a linear classifier of the features gets right, (N,).

    Logistic regression by L-BFGS, which has no learning rate and no order of photos.
    """
    mean, deviation = features.train.mean(0), features.train.std(0) + 1e-6
    x = torch.from_numpy((features.train - mean) / deviation)
    y = torch.from_numpy(features.train_targets)
    weights = torch.zeros(x.shape[1], features.num_classes, requires_grad=True)
    bias = torch.zeros(features.num_classes, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weights, bias], max_iter=_STEPS, line_search_fn="strong_wolfe", history_size=10
    )

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(x @ weights + bias, y) + _DECAY * weights.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        val = torch.from_numpy((features.val - mean) / deviation)
        predicted = (val @ weights + bias).argmax(1).numpy()
    right: NDArray[np.bool_] = predicted == features.val_targets
    return right


def nearest_centroid(features: Features) -> NDArray[np.bool_]:
    """Return which validation photos are nearest to the mean of their own class, (N,).

    By the cosine, since the length of a feature depends more on the photo than on its class.
    """
    centroids = _unit(centroids_of(features))
    predicted = (_unit(features.val) @ centroids.T).argmax(1)
    right: NDArray[np.bool_] = predicted == features.val_targets
    return right


def centroids_of(features: Features) -> NDArray[np.float32]:
    """Return the mean feature of each class's training photos, (K, D)."""
    return np.stack(
        [
            features.train[features.train_targets == target].mean(0)
            for target in range(features.num_classes)
        ]
    )


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: NDArray[np.float32] = rows / np.maximum(length, 1e-12)
    return unit
