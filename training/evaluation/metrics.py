"""Stored predictions → every number of a report; no model is run.

Shapes: N photos, K classes, B bins.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from training.errors import RunError
from training.evaluation import macro
from training.evaluation.calibration import expected_calibration_error, softmax
from training.evaluation.clusters import Clusters, Designs
from training.evaluation.intervals import Z95, accuracy_interval, wilson
from training.evaluation.macro import share

_BINS = 15
_TINY = 1e-12

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Predictions:
    """The answers of a run's best epoch on every photo of a split."""

    probabilities: NDArray[np.float32]
    """[N, K]; each row sums to 1."""
    targets: Ints
    """[N], positions in the labels."""
    files: tuple[str, ...]
    """[N], paths below the folder of photos."""
    groups: tuple[str, ...] = ()
    """[N], what a photo shares with others, "" for one that stands alone; empty without groups."""

    @property
    def right(self) -> NDArray[np.bool_]:
        """[N], whether the likeliest class is the right one."""
        found: NDArray[np.bool_] = self.predicted == self.targets
        return found

    @property
    def clusters(self) -> Clusters | None:
        """The groups of the photos; None where no two share one."""
        return Clusters.of(self.groups)

    @property
    def predicted(self) -> Ints:
        """[N], the likeliest class of each photo."""
        likeliest: Ints = self.probabilities.argmax(1).astype(np.int64)
        return likeliest

    def calibrated(self, temperature: float) -> "Predictions":
        """Return them with the logits divided by a temperature (Guo et al. 2017)."""
        logits = np.log(np.maximum(self.probabilities, 1e-30))
        probabilities = softmax(logits, temperature).astype(np.float32)
        return replace(self, probabilities=probabilities)

    @classmethod
    def load(cls, run_dir: Path, split: str, num_classes: int) -> "Predictions | None":
        """Read `predictions-<split>.npz`; None if the run has none.

        Raises:
            RunError: The file is damaged, or of another class list.
        """
        path = run_dir / f"predictions-{split}.npz"
        if not path.is_file():
            return None
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                found = cls(
                    arrays["probabilities"].astype(np.float32),
                    arrays["targets"].astype(np.int64),
                    tuple(arrays["files"].tolist()),
                    # Runs of before have none.
                    tuple(arrays["groups"].tolist()) if "groups" in arrays else (),
                )
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise RunError(f"{path} is damaged: {error}; train the run again") from error
        problem = found.problem(num_classes)
        if problem:
            raise RunError(f"{path} is damaged: {problem}; train the run again")
        return found

    def problem(self, num_classes: int) -> str | None:
        """Return why these cannot be predictions over so many classes, or None."""
        count = len(self.targets)
        if self.probabilities.shape != (count, num_classes) or len(self.files) != count:
            return (
                f"probabilities {self.probabilities.shape}, targets {self.targets.shape} and"
                f" {len(self.files)} files do not fit {num_classes} classes"
            )
        if self.groups and len(self.groups) != count:
            return f"{len(self.groups)} groups do not fit {count} photos"
        if not count:
            return "it holds no photo"
        if not ((self.targets >= 0) & (self.targets < num_classes)).all():
            return "a target is no class"
        if not np.isfinite(self.probabilities).all():
            return "a probability is not a number"
        if np.abs(self.probabilities.sum(1, dtype=np.float64) - 1).max() > 1e-3:
            return "a row of probabilities does not sum to 1"
        return None


@dataclass(frozen=True, slots=True)
class Rates:
    """One rate of each class with its 95 % interval; NaN where no photo counts."""

    value: Floats
    """[K]"""
    low: Floats
    high: Floats


@dataclass(frozen=True, slots=True)
class PerClass:
    """How each class does."""

    support: Ints
    """[K], photos of the class."""
    predicted: Ints
    """[K], photos taken for the class."""
    precision: Rates
    recall: Rates
    f1: Rates


@dataclass(frozen=True, slots=True)
class Reliability:
    """Accuracy of photos by the confidence of their answers, in bins of equal width."""

    edges: Floats
    """[B + 1]"""
    count: Ints
    """[B]"""
    confidence: Floats
    """[B], mean confidence; NaN in an empty bin."""
    accuracy: Floats
    """[B], NaN in an empty bin."""
    low: Floats
    high: Floats
    ece: float
    """Expected calibration error: mean |accuracy - confidence|, weighted by count."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """The numbers of a whole split."""

    photos: int
    top1: float
    top1_interval: tuple[float, float]
    groups: int
    """Groups that photos share, and that the intervals count; 0 where no two photos share one."""
    top5: float | None
    """None with five classes or fewer."""
    macro_f1: float
    macro_f1_interval: tuple[float, float]
    macro_recall: float
    """Mean over the classes that have photos."""
    macro_recall_interval: tuple[float, float]
    log_loss: float
    brier: float
    """Mean squared distance to the one-hot truth, summed over the classes (0 to 2)."""
    ece: float


def confusion(targets: Ints, predicted: Ints, num_classes: int) -> Ints:
    """Count photos by true class (rows) and predicted class (columns), [K, K]."""
    from sklearn.metrics import confusion_matrix

    matrix: Ints = confusion_matrix(targets, predicted, labels=np.arange(num_classes))
    return matrix


def per_class(matrix: Ints, designs: Designs | None = None) -> PerClass:
    """Return precision, recall and F1 of each class of a confusion matrix [K, K].

    Where photos share groups, their intervals need the design effects that `designs_of` returns.
    """
    from sklearn.metrics import precision_recall_fscore_support

    # A cell of the matrix is a photo that counts as often as the cell says.
    targets, guesses = np.nonzero(matrix)
    precision, recall, f1, _ = precision_recall_fscore_support(
        targets, guesses, sample_weight=matrix[targets, guesses], labels=np.arange(len(matrix)),
        zero_division=np.nan,
    )  # fmt: skip
    right, support, predicted = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    # F1 = 2J/(1+J) rises with J = right/(support + predicted - right), which is a proportion:
    # its Wilson interval, put through the same function, is an interval of F1.
    d = designs or Designs(1.0, 1.0, 1.0, Z95)

    def interval(part: Ints, whole: Ints, design: Floats | float) -> tuple[Floats, Floats]:
        return wilson(part / design, whole / design, d.quantile)

    low, high = interval(right, support + predicted - right, d.union)
    return PerClass(
        support,
        predicted,
        Rates(precision, *interval(right, predicted, d.predicted)),
        Rates(recall, *interval(right, support, d.support)),
        Rates(f1, 2 * low / (1 + low), 2 * high / (1 + high)),
    )


def designs_of(predictions: Predictions, num_classes: int) -> Designs | None:
    """Return the design effects of each class; None where no two photos share a group."""
    clusters = predictions.clusters
    if clusters is None:
        return None
    return Designs.of(predictions.targets, predictions.predicted, clusters, num_classes)


def reliability(predictions: Predictions, bins: int = _BINS) -> Reliability:
    """Sort photos by confidence into bins of equal width, and count how many are right."""
    confidence = predictions.probabilities.max(1).astype(np.float64)
    right = predictions.predicted == predictions.targets
    edges = np.linspace(0, 1, bins + 1)
    bin_of = np.clip(np.digitize(confidence, edges[1:-1], right=True), 0, bins - 1)
    count = np.bincount(bin_of, minlength=bins)
    correct = np.bincount(bin_of, weights=right, minlength=bins)
    mean_confidence = share(np.bincount(bin_of, weights=confidence, minlength=bins), count)
    accuracy = share(correct, count)
    low, high = wilson(correct, count)
    ece = expected_calibration_error(predictions.probabilities, predictions.targets, bins)
    return Reliability(edges, count, mean_confidence, accuracy, low, high, ece)


def scores(predictions: Predictions) -> Scores:
    """Return the numbers of a split."""
    from sklearn.metrics import brier_score_loss

    p = predictions.probabilities.astype(np.float64)
    targets, predicted = predictions.targets, predictions.predicted
    photos, classes = p.shape
    matrix = confusion(targets, predicted, classes)
    right = int(matrix.trace())
    truth = p[np.arange(photos), targets]
    # By hand, since scikit-learn breaks ties by the order of the classes, and clips log loss
    # at another probability.
    top5 = float(((p > truth[:, None]).sum(1) < 5).mean()) if classes > 5 else None
    log_loss = float(-np.log(np.maximum(truth, _TINY)).mean())
    # Stored probabilities are float32, and sum to 1 but for their rounding.
    brier = brier_score_loss(
        targets, p / p.sum(1, keepdims=True), labels=np.arange(classes), scale_by_half=False
    )
    found = per_class(matrix)
    clusters = predictions.clusters
    return Scores(
        photos=photos,
        top1=right / photos,
        top1_interval=accuracy_interval(predictions.right, clusters),
        groups=clusters.count if clusters else 0,
        top5=top5,
        macro_f1=float(np.nanmean(found.f1.value)),
        macro_f1_interval=macro.f1_interval(targets, predicted, classes, clusters),
        macro_recall=float(np.nanmean(found.recall.value)),
        macro_recall_interval=macro.recall_interval(targets, predicted, classes, clusters),
        log_loss=log_loss,
        brier=float(brier),
        ece=reliability(predictions).ece,
    )


def cluster_order(matrix: Ints) -> Ints:
    """Return an order of the classes in which those that are confused stand together, [K].

    Average linkage over how often two classes are taken for each other, leaves ordered optimally
    (Bar-Joseph et al. 2001).
    """
    classes = len(matrix)
    if classes < 3:
        return np.arange(classes)
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    rates = share(matrix, matrix.sum(1, keepdims=True))
    rates = np.nan_to_num(rates)
    near = (rates + rates.T) / 2
    distance = 1 - near / max(near[~np.eye(classes, dtype=bool)].max(), _TINY)
    np.fill_diagonal(distance, 0)
    # The optimal order costs K³; beyond a few hundred classes nobody sees the difference.
    tree = linkage(squareform(distance, checks=False), "average", optimal_ordering=classes <= 300)
    order: Ints = leaves_list(tree).astype(np.int64)
    return order
