"""A photo is never learned where even the models that learned from it answer another class."""

from pathlib import Path

import numpy as np

from training.review.out_of_fold import Answers
from training.review.photos import MOST, never_learned


def test_only_what_every_model_misses_is_never_learned():
    """Right when held out, or right for one model that learned from it, is not listed."""
    # Each model answers with the larger of two features; four photos of class 0, three models.
    right, wrong = (1.0, 0.0), (0.0, 1.0)
    fold_of = np.array([0, 1, 2, 0])
    seen = [
        [wrong, wrong, wrong, wrong],
        [wrong, wrong, right, right],
        [wrong, wrong, wrong, wrong],
    ]
    held_out = np.array([[0.2, 0.8], [0.9, 0.1], [0.3, 0.7], [0.1, 0.9]], np.float32)
    answers = Answers(
        held_out,
        fold_of,
        tuple(np.array(rows, np.float32) for rows in seen),
        (np.eye(2, dtype=np.float32),) * 3,
        (np.zeros(2, np.float32),) * 3,
        (Path("run"),) * 3,
    )

    (found,) = never_learned(answers, np.zeros(4, np.int64))

    assert (0, "never_learned") == (found.row, found.kind)
    assert np.isclose(0.8 * MOST, found.score)
    assert "the 2 models that learned from it" in found.note
