"""What a model file says about itself: ONNX `metadata_props` (docs/reference/model-contract.md)."""

import json
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from service.errors import ModelContractError

SCHEMA_VERSION = "1"

MAX_COUNTED = 1000
"""Classes of a model that are counted one by one. Each costs Prometheus a series a replica."""

OTHER = "(other)"
"""What all other classes are counted as, together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelMetadata:
    """The properties that the service reads; all of them are strings in the file."""

    labels: tuple[str, ...]
    """K class names in Unicode NFC, in the order of the output."""

    image_size: int
    """Side S of the input square, in pixels."""

    resize: str
    """Name of the rule that makes pixels of photos: `pixels.preprocessing.PREPROCESSING`."""

    common: frozenset[str] = frozenset()
    """The classes that are counted one by one, where there are more than `MAX_COUNTED`."""

    model_version: str = ""
    """Where the weights come from, `<run id>/epoch-<n>`. The repository has its own numbers."""

    run_id: str = ""
    epoch: int | None = None
    git_commit: str = ""
    dataset_hash: str = ""

    val_top1: float | None = None
    """Top-1 accuracy on the validation split, as a fraction."""

    test_top1: float | None = None
    """Top-1 accuracy on the test split, as a fraction; None when there is none."""

    min_confidence: float | None = None
    """Between 0 and 1: an answer that is less probable counts as not sure. None: none does."""

    def is_unsure(self, probability: float) -> bool:
        """Return whether an answer of this probability is below the model's threshold."""
        return self.min_confidence is not None and probability < self.min_confidence

    @classmethod
    def from_props(cls, props: Mapping[str, str]) -> Self:
        """Read `metadata_props`.

        Raises:
            ModelContractError: A required property is missing or malformed; the message names it.
        """
        version = _required(props, "schema_version")
        if version != SCHEMA_VERSION:
            raise ModelContractError(
                f"schema_version is {version!r}, and this service reads {SCHEMA_VERSION!r}"
            )
        labels = _labels(_required(props, "labels"))
        common = labels
        if "common_labels" in props:
            common = _names(props["common_labels"], "common_labels")
        return cls(
            labels=labels,
            common=frozenset(common[:MAX_COUNTED]),
            image_size=_image_size(_required(props, "image_size")),
            resize=_required(props, "resize"),
            model_version=props.get("model_version", ""),
            run_id=props.get("run_id", ""),
            epoch=int(_number(props, "epoch") or 0) or None,
            git_commit=props.get("git_commit", ""),
            dataset_hash=props.get("dataset_hash", ""),
            val_top1=_fraction(props, "val_top1"),
            test_top1=_fraction(props, "test_top1"),
            min_confidence=_threshold(props, "min_confidence"),
        )

    def counted_as(self, label: str) -> str:
        """Return what an answer is counted as: its class, or `OTHER` where there are too many."""
        return label if len(self.labels) <= MAX_COUNTED or label in self.common else OTHER


def _required(props: Mapping[str, str], name: str) -> str:
    if name not in props:
        raise ModelContractError(f"metadata property {name!r} is missing; was this file released?")
    return props[name]


def _names(text: str, what: str) -> tuple[str, ...]:
    try:
        names = json.loads(text)
    except ValueError as error:
        raise ModelContractError(f"metadata property {what!r} is not JSON: {error}") from error
    if not isinstance(names, list) or not names or not all(isinstance(x, str) for x in names):
        raise ModelContractError(f"metadata property {what!r} is not a list of names")
    return tuple(names)


def _labels(text: str) -> tuple[str, ...]:
    labels = _names(text, "labels")
    for label in labels:
        if not unicodedata.is_normalized("NFC", label):
            raise ModelContractError(f"metadata property 'labels': {label!r} is not in NFC")
    if len(set(labels)) != len(labels):
        raise ModelContractError("metadata property 'labels' has a name twice")
    return labels


def _image_size(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise ModelContractError(f"metadata property 'image_size' is {text!r}, not a size")
    return int(text)


def _number(props: Mapping[str, str], name: str) -> float | None:
    text = props.get(name, "")
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        raise ModelContractError(f"metadata property {name!r} is {text!r}, not a number") from None


def _fraction(props: Mapping[str, str], name: str) -> float | None:
    value = _number(props, name)
    # Written so that NaN fails.
    if value is not None and not 0 <= value <= 1:
        raise ModelContractError(f"metadata property {name!r} is {value}, not a fraction")
    return value


def _threshold(props: Mapping[str, str], name: str) -> float | None:
    value = _number(props, name)
    if value is not None and not 0 < value < 1:
        raise ModelContractError(
            f"metadata property {name!r} is {value}, and must lie between 0 and 1"
        )
    return value
