"""ONNX files of a few hundred bytes, written without the onnx package (the servers have none).

images (N, S, S, 3) uint8 → Cast → ReduceMean over H, W → MatMul (3, K) → Softmax → probabilities

The default weights answer with the photo's colour: red, green or blue. A message is a list of
(field number, value) pairs; `_message` knows as much of protobuf's wire format as that needs.
"""

import json
import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

_FLOAT, _UINT8, _INT64, _BOOL = 1, 2, 7, 9
_ATTRIBUTE_INT, _ATTRIBUTE_GRAPH, _ATTRIBUTE_INTS = 2, 5, 7

Field = tuple[int, int | str | bytes]


def build(
    path: Path,
    *,
    labels: Sequence[str] = ("red", "green", "blue"),
    weights: Sequence[Sequence[float]] | None = None,
    image_size: int = 8,
    softmax: bool = True,
    batch: int | str = "N",
    input_type: int = _UINT8,
    loops: int = 0,
    padding: int = 0,
    properties: Mapping[str, str | None] | None = None,
) -> Path:
    """Write a model that keeps the contract, save for what the arguments break, to `path`.

    Args:
        path: The file.
        labels: The K classes.
        weights: (3, K), from mean red, green and blue (0 to 255) to logits.
        image_size: S.
        softmax: Without it the rows do not sum to 1.
        batch: A number fixes the batch.
        input_type: 2 is uint8, 1 is float32.
        loops: Idle turns of a loop per run, some microseconds each: a slow model.
        padding: Bytes of weights that change nothing: a large model.
        properties: Metadata that differs; None leaves a key out.
    """
    if weights is None:
        weights = [[0.05 * (row == column) for column in range(len(labels))] for row in range(3)]
    shape = (3, len(labels))
    mean = "mean" if loops else "features"
    nodes = [
        _node("Cast", [("images")], ["pixels"], _attribute("to", _FLOAT)),
        _node(
            "ReduceMean", ["pixels"], [mean], _attribute("axes", [1, 2]), _attribute("keepdims", 0)
        ),
    ]
    initializers = [_tensor("weights", shape, _FLOAT, [value for row in weights for value in row])]
    if loops:
        initializers.append(_tensor("turns", (), _INT64, [loops]))
        nodes.append(_node("Loop", ["turns", "", mean], ["features"], _attribute("body", _body())))
    logits = "logits" if softmax else "probabilities"
    if padding:
        zeros, additions = _padding(padding)
        initializers += zeros
        nodes += additions
    features = "padded" if padding else "features"
    nodes.append(_node("MatMul", [features, "weights"], [logits]))
    if softmax:
        nodes.append(_node("Softmax", [logits], ["probabilities"]))
    graph = _message(
        *((1, node) for node in nodes),
        (2, "tiny"),
        *((5, tensor) for tensor in initializers),
        (11, _value("images", input_type, [batch, image_size, image_size, 3])),
        (12, _value("probabilities", _FLOAT, [batch, len(labels)])),
    )
    path.write_bytes(_file(graph, {**_properties(labels, image_size), **(properties or {})}))
    return path


def _padding(size: int) -> tuple[list[bytes], list[bytes]]:
    """Return tensors of `size` bytes and nodes from "features" to "padded", which is the same."""
    # Zeros, times what is there, added to it: nothing that is known beforehand.
    side = math.isqrt(size // 4)
    zeros = [
        _zeros("wider", (3, side)),
        _zeros("padding", (side, side)),
        _zeros("narrower", (side, 3)),
    ]
    additions = [
        _node("MatMul", ["features", "wider"], ["wide"]),
        _node("MatMul", ["wide", "padding"], ["still_wide"]),
        _node("MatMul", ["still_wide", "narrower"], ["nothing"]),
        _node("Add", ["features", "nothing"], ["padded"]),
    ]
    return zeros, additions


def _file(graph: bytes, properties: Mapping[str, str | None]) -> bytes:
    return _message(
        (1, 8),  # ir_version
        (7, graph),
        (8, _message((2, 17))),  # opset
        *(
            (14, _message((1, key), (2, value)))
            for key, value in properties.items()
            if value is not None
        ),
    )


def _properties(labels: Sequence[str], image_size: int) -> dict[str, str]:
    from service.pixels.preprocessing import PREPROCESSING

    return {
        "schema_version": "1",
        "labels": json.dumps(list(labels), ensure_ascii=False),
        "image_size": str(image_size),
        "resize": PREPROCESSING,
        "model_version": "tiny",
        "git_commit": "0" * 40,
        "dataset_hash": "0" * 64,
        "run_id": "tiny-run",
        "epoch": "3",
        "val_top1": "0.75",
        "test_top1": "",
    }


def _body() -> bytes:
    """Do nothing, slowly: means are never negative."""
    return _message(
        (1, _node("Identity", ["go"], ["go_on"])),
        (1, _node("Abs", ["x"], ["y"])),
        (2, "body"),
        (11, _value("turn", _INT64, [])),
        (11, _value("go", _BOOL, [])),
        (11, _value("x", _FLOAT, ["N", 3])),
        (12, _value("go_on", _BOOL, [])),
        (12, _value("y", _FLOAT, ["N", 3])),
    )


def _node(kind: str, inputs: Sequence[str], outputs: Sequence[str], *attributes: bytes) -> bytes:
    return _message(
        *((1, name) for name in inputs),
        *((2, name) for name in outputs),
        (4, kind),
        *((5, attribute) for attribute in attributes),
    )


def _attribute(name: str, value: int | list[int] | bytes) -> bytes:
    if isinstance(value, int):
        return _message((1, name), (3, value), (20, _ATTRIBUTE_INT))
    if isinstance(value, bytes):
        return _message((1, name), (6, value), (20, _ATTRIBUTE_GRAPH))
    return _message((1, name), *((8, item) for item in value), (20, _ATTRIBUTE_INTS))


def _tensor(name: str, dims: Sequence[int], kind: int, values: Sequence[float]) -> bytes:
    raw = struct.pack(f"<{len(values)}{'f' if kind == _FLOAT else 'q'}", *values)
    return _message(*((1, dim) for dim in dims), (2, kind), (8, name), (9, raw))


def _zeros(name: str, dims: Sequence[int]) -> bytes:
    raw = bytes(4 * dims[0] * dims[1])
    return _message(*((1, dim) for dim in dims), (2, _FLOAT), (8, name), (9, raw))


def _value(name: str, kind: int, dims: Sequence[int | str]) -> bytes:
    shape = _message(*((1, _message((1 if isinstance(dim, int) else 2, dim))) for dim in dims))
    return _message((1, name), (2, _message((1, _message((1, kind), (2, shape))))))


def _message(*fields: Field) -> bytes:
    parts = []
    for number, value in fields:
        if isinstance(value, int):
            parts += [_varint(number << 3), _varint(value)]
        else:
            data = value.encode() if isinstance(value, str) else value
            parts += [_varint(number << 3 | 2), _varint(len(data)), data]
    return b"".join(parts)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
