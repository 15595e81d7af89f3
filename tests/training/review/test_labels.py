"""How suspicious a label is, by the model's answer and the neighbours."""

import numpy as np
import pytest

from training.review.labels import suspicion
from training.review.nearest import Nearest


def test_the_score_compares_the_label_with_the_likeliest_other_class():
    """Half the model's answer, half the votes; then the other class's share of the two."""
    probabilities = np.array([[0.2, 0.1, 0.7], [0.1, 0.1, 0.8], [0.0, 0.0, 1.0]], np.float32)
    targets = np.array([0, 0, 2])
    # Photos 0 and 1 vote for each other's label; photo 1 votes against that of photo 2.
    alike = Nearest(np.array([[1], [0], [1]]), np.ones((3, 1), np.float32))

    judged = suspicion(probabilities, targets, alike)

    assert judged.scores == pytest.approx([0.35 / 0.95, 0.4 / 0.95, 0.5 / 1.0])
    assert judged.probabilities == pytest.approx(
        np.array([[0.6, 0.05, 0.35], [0.55, 0.05, 0.4], [0.5, 0.0, 0.5]])
    )


def test_a_label_that_nothing_contradicts_has_no_score():
    """Neither the model nor a neighbour names another class."""
    alike = Nearest(np.array([[1], [0]]), np.ones((2, 1), np.float32))

    judged = suspicion(np.array([[1, 0], [1, 0]], np.float32), np.array([0, 0]), alike)

    assert judged.scores.tolist() == [0, 0]
