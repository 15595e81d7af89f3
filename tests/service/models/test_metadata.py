"""A model file says what it is, and a file that does not is refused by name."""

import json
import unicodedata

import pytest

from service.errors import ModelContractError
from service.models.metadata import MAX_COUNTED, OTHER, ModelMetadata

PROPS = {
    "schema_version": "1",
    "labels": '["김밥", "냉면"]',
    "image_size": "64",
    "resize": "rule",
    "val_top1": "0.75",
    "test_top1": "",
    "epoch": "7",
}


def test_properties_are_read():
    """Strings become the types that the service works with; an empty one means not known."""
    metadata = ModelMetadata.from_props(PROPS)

    assert ("김밥", "냉면") == metadata.labels
    assert 64 == metadata.image_size
    assert 0.75 == metadata.val_top1
    assert metadata.test_top1 is None
    assert metadata.min_confidence is None
    assert 7 == metadata.epoch


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("schema_version", "2"),
        ("labels", "김밥"),
        ("labels", "[]"),
        ("labels", '["a", "a"]'),
        ("common_labels", "김밥"),
        ("labels", unicodedata.normalize("NFD", '["김밥"]')),
        ("image_size", "0"),
        ("image_size", "x"),
        ("val_top1", "75"),
        ("val_top1", "nan"),
        ("test_top1", "good"),
        ("min_confidence", "0"),
        ("min_confidence", "1"),
        ("min_confidence", "nan"),
    ],
)
def test_a_malformed_property_is_named(name, value):
    """The error names the property that breaks the contract."""
    with pytest.raises(ModelContractError, match=name):
        ModelMetadata.from_props({**PROPS, name: value})


@pytest.mark.parametrize("name", ["schema_version", "labels", "image_size", "resize"])
def test_a_missing_property_is_named(name):
    """A required property that is missing is named."""
    with pytest.raises(ModelContractError, match=name):
        ModelMetadata.from_props({key: value for key, value in PROPS.items() if key != name})


def test_an_answer_below_the_models_threshold_is_unsure():
    """At the threshold it is sure; without one every answer is."""
    metadata = ModelMetadata.from_props({**PROPS, "min_confidence": "0.6"})

    assert [True, False, False] == [metadata.is_unsure(p) for p in (0.59, 0.6, 1.0)]
    assert not ModelMetadata.from_props(PROPS).is_unsure(0.0)


def test_of_many_classes_the_common_ones_are_counted_by_name():
    """Up to 1,000 classes all are; beyond, those that the file names, and never more of them."""
    labels = [f"dish {at}" for at in range(MAX_COUNTED + 500)]

    def counted(labels, **props):
        texts = {"labels": json.dumps(labels)} | {key: json.dumps(x) for key, x in props.items()}
        metadata = ModelMetadata.from_props(PROPS | texts)
        return {metadata.counted_as(label) for label in labels}

    assert set(labels[:MAX_COUNTED]) == counted(labels[:MAX_COUNTED], common_labels=labels[:1])
    assert {OTHER, "dish 1234", "dish 7"} == counted(labels, common_labels=["dish 1234", "dish 7"])
    assert {OTHER, *labels[:MAX_COUNTED]} == counted(labels), "a file that names none"
    assert 1 + MAX_COUNTED == len(counted(labels, common_labels=labels))
