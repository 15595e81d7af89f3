"""Where in a photo the class is seen that it looks like, as digits that a page holds.

Shapes: N photos, M cells of a class map.
"""

import numpy as np
from numpy.typing import NDArray

from training.data.cache import Split
from training.model.class_maps import best_model, class_maps
from training.review.out_of_fold import Answers

MOST = 2000
"""Photos that a review has class maps of, the most suspicious: those of its first page."""


def heats(
    photos: Split, image_size: int, answers: Answers, rows: NDArray[np.int64],
    classes: NDArray[np.int64],
) -> dict[int, str]:  # fmt: skip
    """Return row → M x M digits, row by row, 9 where most speaks for the class and 0 for nothing.

    Each is of the run that judged the photo, which did not learn from it.

    Args:
        photos: All photos.
        image_size: Side of the model's square.
        answers: Of the runs.
        rows: (N,), of the photos that are asked about.
        classes: (N,), the class that is asked about for each.
    """
    found: dict[int, str] = {}
    for fold, run_dir in enumerate(answers.runs):
        of_fold = answers.fold_of[rows] == fold
        if not of_fold.any():
            continue
        weights = answers.heads[fold][classes[of_fold]]
        maps = class_maps(best_model(run_dir), photos.images, rows[of_fold], weights, image_size)
        digits = np.rint(9 * maps).astype(np.int64).reshape(len(maps), -1)
        found |= {
            row: "".join(map(str, cells))
            for row, cells in zip(rows[of_fold].tolist(), digits.tolist(), strict=True)
        }
    return found
