"""config.pbtxt, which Triton reads as well: a model's tensors, and which of its versions serves.

The versions that served before stand in a comment: Triton has no place for them.
"""

import re
from collections.abc import Sequence

_SERVING = re.compile(r"version_policy: \{ specific \{ versions: \[ ([0-9]+) \] \} \}")
_BEFORE = re.compile(r"^# Served before, the latest last:((?: [0-9]+)*)$", re.MULTILINE)
_MAX_BATCH = re.compile(r"max_batch_size: ([0-9]+)")
_REMEMBERED = 20
_TEXT = """\
# Written by hansang; the last line names the version that serves.
# Served before, the latest last:{before}
name: "{name}"
backend: "onnxruntime"
max_batch_size: {max_batch}
input [ {{ name: "images" data_type: TYPE_UINT8 dims: [ {size}, {size}, 3 ] }} ]
output [
  {{
    name: "probabilities" data_type: TYPE_FP32 dims: [ {classes} ]
    label_filename: "{version}/labels.txt"
  }}
]
version_policy: {{ specific {{ versions: [ {version} ] }} }}
"""


def config_text(
    name: str, version: int, *, image_size: int, classes: int, max_batch: int, before: Sequence[int]
) -> str:
    """Return the file by which a version serves; `before` are those that did, the latest last."""
    return _TEXT.format(
        name=name, version=version, size=image_size, classes=classes, max_batch=max_batch,
        before="".join(f" {each}" for each in before[-_REMEMBERED:]),
    )  # fmt: skip


def serving_in(text: str) -> int | None:
    """Return the version that serves; None if the text names none."""
    found = _SERVING.search(text)
    return int(found[1]) if found else None


def before_in(text: str) -> list[int] | None:
    """Return the versions that served before; None in a file by another hand."""
    found = _BEFORE.search(text)
    return [int(version) for version in found[1].split()] if found else None


def max_batch_in(text: str) -> int:
    """Return the largest batch that Triton may make; 64 if the text names none."""
    found = _MAX_BATCH.search(text)
    return int(found[1]) if found else 64
