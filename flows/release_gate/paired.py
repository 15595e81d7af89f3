"""What differs between two models' answers to the same photos, and whether it may be chance.

By photo, or where photos share groups, by group: photos of one object are gained and lost together.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.evaluation.clusters import Clusters, leaving_out, sign_flips
from training.evaluation.intervals import mcnemar

_RESAMPLES = 4000
_SEED = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Paired:
    """A challenger's answers beside a champion's."""

    gained: int
    """Photos that only the challenger gets right."""
    lost: int
    """Photos that only the champion gets right."""
    p_better: float
    """Chance of as many gains or more, were both equally good."""
    p_worse: float
    recall: float
    """The challenger's mean recall less the champion's."""
    interval: tuple[float, float]
    """Its interval of 1 - 2·alpha."""
    groups: int
    """Groups that photos share; 0 where no two photos share one."""

    @property
    def over(self) -> str:
        """Return what the tests count, as a clause; empty if photos."""
        return f" over {self.groups} groups" if self.groups else ""


def paired(
    truth: Sequence[str],
    right: NDArray[np.bool_],
    before: NDArray[np.bool_],
    groups: Sequence[str],
    alpha: float,
) -> Paired:
    """Compare two models by the photos that each gets right.

    Args:
        truth: The label of each photo.
        right: Whether the challenger is right.
        before: Whether the champion is.
        groups: What each photo shares with others; empty where that is not known.
        alpha: The chance that is left outside the interval, on each side.
    """
    each = right.astype(np.float64) - before
    gained, lost = int((each > 0).sum()), int((each < 0).sum())
    labels, of_class = np.unique(np.array(truth), return_inverse=True)
    clusters = Clusters.of(groups)
    if clusters is not None:
        recall, interval = _by_group(of_class, each, clusters, alpha)
        better, worse = (sign_flips(clusters.sums(way * each), one_sided=True) for way in (1, -1))
    else:
        counted = [
            np.bincount(of_class[chosen], minlength=len(labels)).tolist()
            for chosen in (each > 0, each < 0, slice(None))
        ]
        counts = list(zip(*counted, strict=True))
        recall, interval = _resampled(counts, alpha)
        better, worse = (
            mcnemar(one, other, one_sided=True) for one, other in ((gained, lost), (lost, gained))
        )
    return Paired(
        gained=gained, lost=lost, p_better=better, p_worse=worse, recall=recall,
        interval=interval, groups=clusters.count if clusters else 0,
    )  # fmt: skip


def _resampled(
    counts: Sequence[tuple[int, int, int]], alpha: float
) -> tuple[float, tuple[float, float]]:
    """Return the difference of the mean recalls and its bootstrap interval (1 - 2·alpha).

    `counts` has the photos of each class: gained, lost, all.
    """
    random = np.random.default_rng(_SEED)
    sums = np.zeros(_RESAMPLES)
    difference = 0.0
    for gained, lost, photos in counts:
        # Each photo is gained, lost or neither, so resampling photos is a multinomial draw.
        shares = np.array([gained, lost, photos - gained - lost]) / photos
        drawn = random.multinomial(photos, shares, _RESAMPLES)
        sums += (drawn[:, 0] - drawn[:, 1]) / photos
        difference += (gained - lost) / photos
    low, high = np.quantile(sums / len(counts), [alpha, 1 - alpha])
    return difference / len(counts), (float(low), float(high))


def _by_group(
    of_class: NDArray[np.integer], each: NDArray[np.float64], clusters: Clusters, alpha: float
) -> tuple[float, tuple[float, float]]:
    """Return the difference of the mean recalls and its interval, leaving out one group at a time.

    `of_class` is the class of each photo, `each` whether it is gained (1), lost (-1) or neither.
    """
    photos, changed = (np.zeros((clusters.count, int(of_class.max()) + 1)) for _ in range(2))
    np.add.at(photos, (clusters.index, of_class), 1)
    np.add.at(changed, (clusters.index, of_class), each)
    whole = float((changed.sum(0) / photos.sum(0)).mean())
    left = photos.sum(0) - photos
    # A class that only one group has is missing without it, and counts no more.
    shares = np.divide(changed.sum(0) - changed, left, out=np.zeros_like(left), where=left > 0)
    without = shares.sum(1) / np.maximum((left > 0).sum(1), 1)
    return whole, leaving_out(whole, without, 2 * alpha)
