"""config.pbtxt: Triton's configuration of a model, which also names the version that serves.

The file is the text form of protobuf's message `ModelConfig`, and any valid text is understood. A
release or a rollback changes only what `set_serving` names; everything else that an operator wrote
is kept, except comments, which protobuf does not read.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf import text_format

from service.errors import ModelContractError
from service.pb import inference_pb2 as pb

CONFIG = "config.pbtxt"

_SERVED_BEFORE = "hansang.served_before"
_LINE = "hansang.line"
_REMEMBERED = 20
_MAX_BATCH = 64
_HEADER = """\
# The version policy names the version that serves. A release changes it, keeps other settings, and
# drops comments.
"""


def parse(text: bytes, where: object, *, ignore_unknown: bool = False) -> pb.ModelConfig:
    """Return the configuration that a file holds.

    Args:
        text: The content of the file.
        where: The path or URL of the file, for errors.
        ignore_unknown: Whether fields that Triton may have added since are skipped. Skipped fields
            are lost, so a file that will be written again must be read without this.

    Raises:
        ModelContractError: The text is not a ModelConfig; the message names line and column.
    """
    config = pb.ModelConfig()
    try:
        text_format.Parse(text.decode(), config, allow_unknown_field=ignore_unknown)
    except (text_format.ParseError, ValueError) as error:  # of a number out of range, or no UTF-8
        raise ModelContractError(
            f"{where} is not a model configuration of Triton's: {error}; correct it there"
        ) from error
    return config


def serving_version(config: pb.ModelConfig) -> int | None:
    """Return the version that serves; None unless the version policy names exactly one."""
    versions = config.version_policy.specific.versions
    return versions[0] if len(versions) == 1 else None


def served_before(config: pb.ModelConfig) -> list[int] | None:
    """Return the versions that served before, the latest last; None if the file does not say."""
    if _SERVED_BEFORE not in config.parameters:
        return None
    numbers = config.parameters[_SERVED_BEFORE].string_value.split()
    return [int(number) for number in numbers if number.isascii() and number.isdigit()]


def line(config: pb.ModelConfig) -> dict[str, Any] | None:
    """Return the history's line of the change that made the file; None if it holds none."""
    if _LINE not in config.parameters:
        return None
    try:
        found = json.loads(config.parameters[_LINE].string_value)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def set_serving(
    config: pb.ModelConfig,
    model: str,
    version: int,
    *,
    image_size: int,
    classes: int,
    before: Sequence[int],
    line: Mapping[str, Any],
) -> None:
    """Have a configuration say that a version serves.

    This sets the name, the backend, the version policy, types and sizes of the two tensors, where
    the labels lie, and `max_batch_size` if it is 0.

    Args:
        config: What is changed; empty for a new model.
        model: Name of the model.
        version: The version that is to serve.
        image_size: Side of its input images, in pixels.
        classes: How many classes it has.
        before: The versions that served before, the latest last.
        line: What the history says of this change.
    """
    config.name, config.backend = model, "onnxruntime"
    config.version_policy.specific.versions[:] = [version]
    config.max_batch_size = config.max_batch_size or _MAX_BATCH
    source = _tensor(config.input, "images")
    source.data_type, source.dims[:] = pb.TYPE_UINT8, [image_size, image_size, 3]
    result = _tensor(config.output, "probabilities")
    result.data_type, result.dims[:] = pb.TYPE_FP32, [classes]
    result.label_filename = f"{version}/labels.txt"
    remembered = " ".join(str(number) for number in before[-_REMEMBERED:])
    config.parameters[_SERVED_BEFORE].string_value = remembered
    config.parameters[_LINE].string_value = json.dumps(line, ensure_ascii=False)


def to_text(config: pb.ModelConfig) -> str:
    """Return the content of the file."""
    text: str = text_format.MessageToString(
        config, as_utf8=True, use_index_order=True, use_short_repeated_primitives=True
    )
    return _HEADER + text


def _tensor(tensors: Any, name: str) -> Any:
    """Return the input or output of that name, which is added if it is missing."""
    for tensor in tensors:
        if tensor.name == name:
            return tensor
    return tensors.add(name=name)
