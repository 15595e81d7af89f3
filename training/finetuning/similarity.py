"""How large new photos are as a set, how similar to the old ones, and which strategy that suggests.

The four-way rule (size by similarity) is that of the Stanford course CS231n, 'Transfer Learning'.
It is a guess; the search measures.
"""

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data.cache import DatasetCache
from training.errors import DataError
from training.evaluation.clusters import Clusters
from training.evaluation.intervals import accuracy_interval, method
from training.finetuning.separation import centroids_of, features_of, linear_probe, nearest_centroid
from training.model.pretrained import Start
from training.model.resnet import build

SMALL = 500
"""Photos a class (median) below which a set is small: ResNet18 has 11 million weights, and the
usual sets for training from scratch have 500 (CIFAR-100) to 1,300 (ImageNet) a class."""

SIMILAR = 0.7
"""How far a linear probe must come for the new photos to count as similar to the old ones. 0 is
always guessing the largest class, 1 is no mistake."""

_RULE = {
    (True, True): ("linear-probe", "few photos, which the frozen features tell apart: little to"
                   " learn, and much to overfit"),
    (True, False): ("last-layers", "few photos, which the frozen features do not tell apart: the"
                    " general early parts are of use, the late ones are not"),
    (False, True): ("full", "many photos like the old ones: enough to adapt everything, from a good"
                    " start"),
    (False, False): ("full", "many photos unlike the old ones: everything must change, and the old"
                     " weights are still a better start than random ones"),
}  # fmt: skip
"""(small, similar) → the strategy that the rule suggests, and why."""


@dataclass(frozen=True, kw_only=True)
class Similarity:
    """Measurements of new photos with old weights."""

    source: str
    photos_per_class: float
    """Median over the classes, of the training split."""
    num_classes: int
    probe_top1: float
    """Accuracy of a linear probe on frozen features, on the validation split."""
    probe_interval: tuple[float, float]
    groups: int
    """Groups of validation photos that the interval counts; 0 where they share none."""
    centroid_top1: float
    """Accuracy of the nearest class mean."""
    guess_top1: float
    """Accuracy of always answering the largest class of the training split."""
    distance: float | None
    """Earth mover's distance between the class means of both sets (Cui et al. 2018), in units of
    the mean distance between old classes; None if the old photos are gone."""
    small: bool
    similar: bool
    advice: str
    """The strategy that the four-way rule names."""
    why: str

    @property
    def quadrant(self) -> str:
        """Return the case of the four-way rule, e.g. 'small and similar'."""
        return f"{'small' if self.small else 'large'} and {'' if self.similar else 'not '}similar"

    @property
    def sentences(self) -> list[str]:
        """Return the measurements as sentences for people."""
        low, high = self.probe_interval
        size = f"{self.photos_per_class:.0f} photos a class (median; small is below {SMALL})"
        probe = (
            f"on the frozen features of {self.source} a linear probe is right on"
            f" {self.probe_top1:.1%} of the validation photos (95 %: {low:.1%} to {high:.1%},"
            f" {method(self.groups)}), the"
            f" nearest class mean on {self.centroid_top1:.1%}; guessing the largest class"
            f" {self.guess_top1:.1%}"
        )
        if self.distance is None:
            far = "the old photos are not known here, so no distance to them"
        else:
            far = (
                f"the new classes lie {self.distance:.2f} from the old ones, where 1 is the mean"
                " distance between two old classes (earth mover's distance, Cui et al. 2018)"
            )
        return [
            size,
            probe,
            far,
            f"{self.quadrant}: {self.advice} by the four-way rule, {self.why}",
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {**asdict(self), "quadrant": self.quadrant}


def measure(cache: DatasetCache, start: Start) -> Similarity:
    """Measure a set of photos with weights that have not seen it.

    Raises:
        DataError: The disk has no room for features.
    """
    model = build(2, seed=0)
    model.load_state_dict({**model.state_dict(), **start.tensors})
    features = features_of(model, cache)
    counts = np.bincount(features.train_targets, minlength=features.num_classes)
    right = linear_probe(features)
    guess = float((features.val_targets == counts.argmax()).mean())
    small = float(np.median(counts)) < SMALL
    similar = (right.mean() - guess) / max(1 - guess, 1e-9) >= SIMILAR
    advice, why = _RULE[small, bool(similar)]
    clusters = Clusters.of(cache.splits["val"].groups)
    distance = None
    old = _opened(start.photos)
    if old is not None:
        old_features = features_of(model, old)
        distance = _distance(
            centroids_of(old_features), _shares(old_features.train_targets),
            centroids_of(features), _shares(features.train_targets),
        )  # fmt: skip
    return Similarity(
        source=start.name,
        photos_per_class=float(np.median(counts)),
        num_classes=features.num_classes,
        probe_top1=float(right.mean()),
        probe_interval=accuracy_interval(right, clusters),
        groups=clusters.count if clusters else 0,
        centroid_top1=float(nearest_centroid(features).mean()),
        guess_top1=guess,
        distance=distance,
        small=small,
        similar=bool(similar),
        advice=advice,
        why=why,
    )


def _opened(path: Path | None) -> DatasetCache | None:
    try:
        return None if path is None else DatasetCache.open(path)
    except DataError:
        return None


def _shares(targets: NDArray[np.int64]) -> NDArray[np.float64]:
    counts = Counter(targets.tolist())
    return np.array([counts[target] for target in sorted(counts)]) / len(targets)


def _distance(
    old: NDArray[np.float32],
    old_shares: NDArray[np.float64],
    new: NDArray[np.float32],
    new_shares: NDArray[np.float64],
) -> float:
    """Return the earth mover's distance from the old class means to the new ones."""
    from scipy.stats import wasserstein_distance_nd

    moved = wasserstein_distance_nd(old, new, old_shares, new_shares)
    between = np.linalg.norm(old[:, None] - old[None], axis=2)
    unit = between.sum() / max(len(old) * (len(old) - 1), 1)
    return float(moved / max(unit, 1e-12))
