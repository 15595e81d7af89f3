"""A first guess without training: logistic regression on what a run sees in the photos.

Shapes: N photos, K classes, D features.
"""

from pathlib import Path

import numpy as np

from terminal import Progress, no_progress
from training.data.cache import DatasetCache, Split
from training.review.folds import deal
from training.review.out_of_fold import Answers, features_of

_STRENGTH = 0.01
"""Of the penalty's inverse: 512 features would fit a hundred wrong labels of a class."""
_MOST_STEPS = 200


def guess(
    run_dir: Path, cache: DatasetCache, photos: Split, *, folds: int,
    progress: Progress = no_progress,
) -> Answers:  # fmt: skip
    """Return the cross-validated answers of a linear classifier of a run's features.

    A run that learned from these very photos has fitted some wrong labels, and finds fewer of them
    than runs that did not. The classes of the run may be others.

    Raises:
        RunError: There is no run, or its best checkpoint is damaged.
        DataError: There are fewer groups than folds, or the disk has no room for the features.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features = features_of(run_dir, cache, photos)
    fold_of = deal(photos, folds)
    probabilities = np.zeros((len(photos.files), len(cache.labels)), np.float32)
    heads = [np.zeros((len(cache.labels), features.shape[1]), np.float32) for _ in range(folds)]
    # A class that a fold's classifier does not know is never its answer.
    biases = [np.full(len(cache.labels), -np.inf, np.float32) for _ in range(folds)]
    for fold in range(folds):
        progress(fold, folds, "guessing")
        others, held_out = fold_of != fold, fold_of == fold
        classifier = make_pipeline(
            StandardScaler(), LogisticRegression(C=_STRENGTH, max_iter=_MOST_STEPS)
        ).fit(features[others], photos.targets[others])
        # A class that lies in one fold alone is not known to that fold's classifier.
        columns = classifier.classes_
        probabilities[np.ix_(held_out, columns)] = classifier.predict_proba(features[held_out])
        weights = classifier[-1].coef_ / classifier[0].scale_
        # Of two classes one row says both.
        shift = classifier[-1].intercept_ - weights @ classifier[0].mean_
        two = len(weights) == 1
        heads[fold][columns] = np.concatenate([-weights, weights]) if two else weights
        biases[fold][columns] = np.concatenate([-shift, shift]) if two else shift
    progress(folds, folds, "guessing")
    return Answers(
        probabilities, fold_of, (features,) * folds, tuple(heads), tuple(biases), (run_dir,) * folds
    )
