"""Models whose pixels were made by an older rule are served while ordinary pixels are the same."""

import pytest

from service.errors import ModelContractError
from service.models.model import Model
from service.pixels.preprocessing import COMPATIBLE, PREPROCESSING
from tests.service import tiny_onnx


@pytest.mark.parametrize("rule", sorted(COMPATIBLE))
def test_a_model_of_a_compatible_rule_is_served(rule, tmp_path, monkeypatch):
    """The rule of before stays good: a release of months ago need not be made again."""
    monkeypatch.setattr("service.pixels.preprocessing.PREPROCESSING", rule)
    path = tiny_onnx.build(tmp_path / "model.onnx")

    assert rule == Model(path, device="cpu").metadata.resize


def test_a_model_of_another_rule_is_refused(tmp_path, monkeypatch):
    """Its answers would be worse without a word."""
    monkeypatch.setattr("service.pixels.preprocessing.PREPROCESSING", "some-rule-1")
    path = tiny_onnx.build(tmp_path / "model.onnx")

    with pytest.raises(ModelContractError, match=f"some-rule-1.*{PREPROCESSING}"):
        Model(path, device="cpu")
