"""Stored answers: the pictures are the same everywhere, and other answers are refused."""

import hashlib
import json

import numpy as np
import pytest

from service.errors import ModelContractError, OtherAnswersError
from service.sessions import answers


def answering(shift=0.0):
    """Return a model of two classes: how light a picture is; `shift` is what a machine adds."""

    def predict(images_NHWC):
        light = images_NHWC.mean((1, 2, 3)) / 255 + shift
        return np.stack([light, 1 - light], 1).astype(np.float32)

    return predict


@pytest.fixture
def stored(tmp_path):
    """The answers of a version that was released."""
    path = tmp_path / answers.FILE
    path.write_text(answers.text(answering(), 64))
    return path


def test_the_pictures_are_the_same_on_every_machine():
    """Whole numbers only; another digest here would refuse every version that was released."""
    made = answers.pictures(64)

    assert (16, 64, 64, 3) == made.shape
    digest = hashlib.sha256(made.tobytes()).hexdigest()
    assert "d02cd4961a7dabe5cab88c5fe406d083d58e9bbe94bbec088c420e11ecfd01ec" == digest
    assert 16 == len({each.tobytes() for each in made})


def test_answers_within_the_tolerance_pass(stored):
    """Machines round differently; what is stored has six digits."""
    answers.require(stored, answering(0.009), 64, 2, 0.01)


@pytest.mark.parametrize("shift", [0.011, -0.2, np.nan])
def test_other_answers_are_refused(stored, shift):
    """The sentence says how far they are apart, and what to do."""
    with pytest.raises(OtherAnswersError, match=r"where 0\.01 is allowed.*another --precision"):
        answers.require(stored, answering(shift), 64, 2, 0.01)


def test_a_version_without_stored_answers_passes(tmp_path):
    """As those that were released before."""
    answers.require(tmp_path / answers.FILE, answering(0.5), 64, 2, 0.01)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"pictures": "patches-1"}',
        '{"pictures": "patches-1", "probabilities": [[0.5, 0.5]]}',
        '{"pictures": "patches-1", "probabilities": [["a", "b"]]}',
        '{"pictures": "patches-2", "probabilities": []}',
        "[" * 100_000,
        " " * (8 * 2**20 + 1),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path, content):
    """A damaged file, one of a later rule, one that is too large to be read."""
    path = tmp_path / answers.FILE
    path.write_text(content)
    with pytest.raises(ModelContractError, match="not what this server can compare with"):
        answers.require(path, answering(), 64, 2, 0.01)


def test_the_file_has_an_answer_for_each_picture(stored):
    """Probabilities, as the model gives them."""
    told = json.loads(stored.read_text())
    assert (16, 2) == np.array(told["probabilities"]).shape
