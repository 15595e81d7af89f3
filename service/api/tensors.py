"""Reads, checks and writes tensors of the Open Inference Protocol.

In raw contents, each element of a BYTES tensor is its length, a little-endian uint32, and then its
bytes. Every error says what came and what was expected.

Shapes: N batch, S side of the model's square, K classes.
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import replace
from time import monotonic

import numpy as np
from numpy.typing import NDArray

from service.api.inference import CallOptions
from service.batching.batcher import Row
from service.batching.priority_queue import Priority
from service.config import MAX_IMAGES_PER_CALL
from service.errors import InvalidArgumentError
from service.pb import inference_pb2 as pb

INPUT = "images"
OUTPUT = "probabilities"

_LENGTH = struct.Struct("<I")
_MAX_CLASSES = 2**31 - 1


def read_images(request: pb.ModelInferRequest, image_size: int) -> list[bytes] | NDArray[np.uint8]:
    """Return the images of a request: encoded ones, or pixels (N, S, S, 3).

    Raises:
        InvalidArgumentError: The tensors are not those that `ModelMetadata` describes.
    """
    if len(request.inputs) != 1:
        names = ", ".join(repr(tensor.name) for tensor in request.inputs) or "none"
        raise InvalidArgumentError(f"inputs: one is expected, {INPUT!r}; there is {names}")
    tensor = request.inputs[0]
    if tensor.name != INPUT:
        raise InvalidArgumentError(f"inputs: {tensor.name!r} is not known; the input is {INPUT!r}")
    _no_shared_memory(tensor)
    raw = request.raw_input_contents
    if raw and tensor.HasField("contents"):
        raise InvalidArgumentError(
            f"{INPUT}: both contents and raw_input_contents are set; send one of them"
        )
    if len(raw) > 1:
        raise InvalidArgumentError(f"raw_input_contents: {len(raw)} entries for one input")
    shape = list(tensor.shape)
    if tensor.datatype == "BYTES":
        if len(shape) not in (1, 2) or shape[1:] not in ([], [1]):
            raise InvalidArgumentError(f"{INPUT}: shape {shape}, where BYTES has [N, 1]")
        count = _batch(shape)
        if raw:
            return _elements(raw[0], count)
        images = list(tensor.contents.bytes_contents)
        if len(images) != count:
            raise InvalidArgumentError(
                f"{INPUT}: bytes_contents has {len(images)} elements, and shape {shape}"
                f" says {count}"
            )
        return images
    if tensor.datatype != "UINT8":
        raise InvalidArgumentError(
            f"{INPUT}: datatype {tensor.datatype!r}, where BYTES (encoded images) or UINT8 (pixels)"
            " is expected"
        )
    if shape[1:] != [image_size, image_size, 3]:
        raise InvalidArgumentError(
            f"{INPUT}: shape {shape}, where this model has [N, {image_size}, {image_size}, 3]"
        )
    _batch(shape)
    return _pixels(tensor, raw[0] if raw else None, shape)


def read_options(request: pb.ModelInferRequest, options: CallOptions) -> CallOptions:
    """Return the options, changed by Triton's parameters `priority` and `timeout` (µs).

    Raises:
        InvalidArgumentError: One of them is not a number, or negative.
    """
    priority = _integer(request, "priority")
    if priority:
        options = replace(
            options, priority=Priority.INTERACTIVE if priority == 1 else Priority.BULK
        )
    timeout_us = _integer(request, "timeout")
    if timeout_us:
        options = replace(
            options, deadline_s=min(options.deadline_s, monotonic() + timeout_us / 1e6)
        )
    return options


def _integer(request: pb.ModelInferRequest, name: str) -> int:
    if name not in request.parameters:
        return 0
    value = request.parameters[name]
    kind = value.WhichOneof("parameter_choice")
    if kind not in ("int64_param", "uint64_param") or getattr(value, kind) < 0:
        raise InvalidArgumentError(f"parameters: {name} must be a number that is not negative")
    number: int = getattr(value, kind)
    return number


def count_of_classes(output: pb.ModelInferRequest.InferRequestedOutputTensor) -> int:
    """Return how many classes a requested output is to have; 0: probabilities of all classes.

    Raises:
        InvalidArgumentError: The model has no such output, or the number is not positive.
    """
    if output.name != OUTPUT:
        raise InvalidArgumentError(
            f"outputs: {output.name!r} is not known; the output is {OUTPUT!r}"
        )
    _no_shared_memory(output)
    if "classification" not in output.parameters:
        return 0
    count = output.parameters["classification"].int64_param
    if not 0 < count <= _MAX_CLASSES:
        raise InvalidArgumentError(f"{OUTPUT}: classification must be positive, is {count}")
    return count


def write_rows(response: pb.ModelInferResponse, rows: Sequence[Row], *, typed: bool) -> None:
    """Add probabilities to a response, as FP32 [N, K]."""
    rows_NK = np.stack(rows)
    tensor = response.outputs.add(name=OUTPUT, datatype="FP32", shape=rows_NK.shape)
    if typed:
        tensor.contents.fp32_contents.extend(rows_NK.ravel().tolist())
    else:
        response.raw_output_contents.append(np.ascontiguousarray(rows_NK, "<f4").tobytes())


def write_classes(
    response: pb.ModelInferResponse, texts: Sequence[Sequence[str]], *, typed: bool
) -> None:
    """Add classes to a response, as BYTES [N, count]; each is `value:index:label`."""
    elements = [text.encode() for row in texts for text in row]
    tensor = response.outputs.add(name=OUTPUT, datatype="BYTES", shape=[len(texts), len(texts[0])])
    if typed:
        tensor.contents.bytes_contents.extend(elements)
    else:
        response.raw_output_contents.append(
            b"".join(_LENGTH.pack(len(element)) + element for element in elements)
        )


def _batch(shape: list[int]) -> int:
    if not 1 <= shape[0] <= MAX_IMAGES_PER_CALL:
        raise InvalidArgumentError(
            f"{INPUT}: 1 to {MAX_IMAGES_PER_CALL} images are accepted in a call, not {shape[0]}"
        )
    return shape[0]


def _elements(raw: bytes, count: int) -> list[bytes]:
    elements: list[bytes] = []
    at = 0
    while at < len(raw):
        if at + _LENGTH.size > len(raw):
            raise InvalidArgumentError(f"{INPUT}: the length of element {len(elements)} is cut off")
        (size,) = _LENGTH.unpack_from(raw, at)
        at += _LENGTH.size
        if at + size > len(raw):
            raise InvalidArgumentError(
                f"{INPUT}: element {len(elements)} says {size} bytes, and {len(raw) - at} are left"
            )
        if len(elements) == count:
            raise InvalidArgumentError(f"{INPUT}: more elements than the {count} of its shape")
        elements.append(raw[at : at + size])
        at += size
    if len(elements) != count:
        raise InvalidArgumentError(f"{INPUT}: {len(elements)} elements, and the shape says {count}")
    return elements


def _pixels(
    tensor: pb.ModelInferRequest.InferInputTensor, raw: bytes | None, shape: list[int]
) -> NDArray[np.uint8]:
    if raw is not None:
        given = np.frombuffer(raw, np.uint8)
    else:
        values = np.array(tensor.contents.uint_contents, np.uint32)
        if values.size and values.max() > 255:
            raise InvalidArgumentError(
                f"{INPUT}: uint_contents has {values.max()}; UINT8 ends at 255"
            )
        given = values.astype(np.uint8)
    if given.size != math.prod(shape):
        raise InvalidArgumentError(
            f"{INPUT}: {given.size} bytes, where shape {shape} has {math.prod(shape)}"
        )
    return given.reshape(shape)


def _no_shared_memory(
    tensor: pb.ModelInferRequest.InferInputTensor | pb.ModelInferRequest.InferRequestedOutputTensor,
) -> None:
    if any(name.startswith("shared_memory") for name in tensor.parameters):
        raise InvalidArgumentError(f"{tensor.name}: shared memory is not offered; send contents")
