"""Retention: how well a fine-tuned network still tells the old classes apart."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from training.data.cache import DatasetCache
from training.evaluation.clusters import Clusters
from training.finetuning.separation import features_of, linear_probe
from training.model import pretrained
from training.model.pretrained import Start
from training.model.resnet import build
from training.reports.compare import Delta, difference


@dataclass(frozen=True, kw_only=True)
class Retention:
    """Linear probes on the old photos, before and after fine-tuning; accuracies are fractions."""

    photos: str
    """Name of the old photos' dataset cache."""
    before: float
    after: float
    change: Delta
    """Paired over the old validation photos."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


def retention(start: Start, run_dir: Path, old: DatasetCache) -> Retention:
    """Compare linear probes of the old weights and of a run's best epoch on the old photos.

    Raises:
        RunError: The run has no best epoch.
    """
    right = []
    for weights in (start, pretrained.read(run_dir)):
        model = build(2, seed=0)
        model.load_state_dict({**model.state_dict(), **weights.tensors})
        right.append(linear_probe(features_of(model, old)))
    clusters = Clusters.of(old.splits["val"].groups)
    return Retention(
        photos=old.path.name,
        before=float(right[0].mean()),
        after=float(right[1].mean()),
        change=difference(right[0], right[1], clusters=(clusters, clusters)),
    )
