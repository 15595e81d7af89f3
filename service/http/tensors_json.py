"""The Open Inference Protocol over REST: JSON and its binary extension, to messages and back.

    JSON                                       inputs have `data`
    JSON ─ binary of input 0 ─ input 1 ─ …     inputs have `parameters.binary_data_size`

In the second form the header `Inference-Header-Content-Length` says where the JSON ends. In JSON, a
BYTES element is a photo in base64; in binary, it is as over gRPC.
"""

import base64
import binascii
import json
import struct
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from google.protobuf.message import Message
from starlette.responses import Response

from service.errors import InvalidArgumentError
from service.pb import inference_pb2 as pb

LENGTH_HEADER = "inference-header-content-length"
MAX_JSON_BYTES = 16 * 2**20
"""Most bytes of JSON: parsing blocks the event loop, for 20 ms if it is one long text."""
_MAX_JSON_VALUES = 300_000
"""Two images of 224 px as numbers. Reading them takes 10 to 50 ms, ten times as long as a text."""

_KINDS: dict[str, tuple[type, str]] = {
    "inputs": (list, "array"),
    "outputs": (list, "array"),
    "parameters": (dict, "object"),
    "id": (str, "string"),
}
_INT64 = 2**63


class InferRequest:
    """A request that was read.

    Attributes:
        message: What a gRPC client would have sent.
        binary: Whether the output is to be binary.
    """

    def __init__(self, body: bytes, header_length: str | None, model: str, version: str) -> None:
        """Read a body.

        Raises:
            InvalidArgumentError: It breaks the protocol; the message tells where.
        """
        length = _length(header_length, len(body))
        given = parse(body[:length])
        for key, (kind, name) in _KINDS.items():
            if key in given and not isinstance(given[key], kind):
                raise InvalidArgumentError(f"{key}: a JSON {name} is expected")
        self.message = pb.ModelInferRequest(
            model_name=model, model_version=version, id=given.get("id", "")
        )
        parameters = given.get("parameters", {})
        self.binary = bool(parameters.pop("binary_data_output", False))
        _set_parameters(self.message.parameters, parameters, "parameters")
        rest = memoryview(body)[length:]
        for at, tensor in enumerate(given.get("inputs", [])):
            rest = self._read_input(_object(tensor, f"inputs[{at}]"), f"inputs[{at}]", rest)
        if rest:
            raise InvalidArgumentError(f"{len(rest)} bytes follow the last input")
        for at, tensor in enumerate(given.get("outputs", [])):
            self._read_output(_object(tensor, f"outputs[{at}]"), f"outputs[{at}]")

    def _read_input(self, given: dict[str, Any], where: str, rest: memoryview) -> memoryview:
        """Add an input; return the binary data after it."""
        tensor = self.message.inputs.add(
            name=_text(given, "name", where),
            datatype=_text(given, "datatype", where),
            shape=_shape(given.get("shape"), where),
        )
        parameters = _object(given.get("parameters", {}), f"{where}.parameters")
        size = parameters.pop("binary_data_size", None)
        _set_parameters(tensor.parameters, parameters, f"{where}.parameters")
        if any(name.startswith("shared_memory") for name in parameters):
            return rest  # gRPC refuses it, with its message
        if size is not None:
            if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(rest):
                raise InvalidArgumentError(
                    f"{where}: binary_data_size is {size!r}, and {len(rest)} bytes follow the JSON"
                )
            self.message.raw_input_contents.append(bytes(rest[:size]))
            return rest[size:]
        data = given.get("data")
        if not isinstance(data, list):
            raise InvalidArgumentError(
                f"{where}: data, a JSON array, or parameters.binary_data_size is expected"
            )
        if tensor.datatype == "BYTES":
            tensor.contents.bytes_contents.extend(_photos(data, where))
        elif tensor.datatype == "UINT8":  # gRPC refuses other types, with its message
            tensor.contents.uint_contents.extend(_numbers(data, where))
        return rest

    def _read_output(self, given: dict[str, Any], where: str) -> None:
        parameters = _object(given.get("parameters", {}), f"{where}.parameters")
        self.binary = bool(parameters.pop("binary_data", self.binary))
        output = self.message.outputs.add(name=_text(given, "name", where))
        _set_parameters(output.parameters, parameters, f"{where}.parameters")


def infer_response(answer: pb.ModelInferResponse, *, binary: bool) -> Response:
    """Return an answer as a response, with its tensors in binary or in JSON."""
    fields: dict[str, Any] = {
        "model_name": answer.model_name,
        "model_version": answer.model_version,
    }
    if answer.id:
        fields["id"] = answer.id
    parts: list[bytes] = []
    outputs = fields["outputs"] = []
    for at, tensor in enumerate(answer.outputs):
        raw = answer.raw_output_contents[at] if answer.raw_output_contents else None
        entry: dict[str, Any] = {
            "name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape),
        }  # fmt: skip
        if binary:
            parts.append(_as_bytes(tensor) if raw is None else raw)
            entry["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            entry["data"] = _as_list(tensor, raw)
        outputs.append(entry)
    header = json.dumps(fields, ensure_ascii=False).encode()
    if not binary:
        return Response(header, media_type="application/json")
    return Response(
        b"".join([header, *parts]),
        headers={LENGTH_HEADER: str(len(header))},
        media_type="application/octet-stream",
    )


def plain(message: Message) -> dict[str, Any]:
    """Return a message as REST shows it: numbers as numbers, and the fields' own names.

    A message or a choice within it that is not set is left out; other fields are always there.
    """
    return {
        field.name: _plain(message, field)
        for field in message.DESCRIPTOR.fields
        if not field.has_presence or message.HasField(field.name)
    }


def parse(body: bytes) -> dict[str, Any]:
    """Return the JSON object of a body; an empty body is an empty object.

    Raises:
        InvalidArgumentError: It is too large, has too many values, or is not a JSON object.
    """
    if len(body) > MAX_JSON_BYTES:
        raise InvalidArgumentError(
            f"{len(body)} bytes of JSON; at most {MAX_JSON_BYTES} are read: send the tensors binary"
        )
    values = sum(map(body.count, (b",", b"[", b"{")))
    if values > _MAX_JSON_VALUES:
        raise InvalidArgumentError(
            f"JSON of {values} values; at most {_MAX_JSON_VALUES} are read: send the tensors binary"
        )
    try:
        return _object(json.loads(body) if body.strip() else {}, "the body")
    except (ValueError, RecursionError) as error:
        raise InvalidArgumentError(f"the body is no JSON: {error}") from error


def _plain(message: Message, field: Any) -> Any:
    value = getattr(message, field.name)
    if field.enum_type:
        return field.enum_type.values_by_number[value].name
    if field.is_repeated:
        if field.message_type and field.message_type.GetOptions().map_entry:
            return {key: plain(each) if isinstance(each, Message) else each
                    for key, each in value.items()}  # fmt: skip
        return [plain(each) for each in value] if field.message_type else list(value)
    return plain(value) if field.message_type else value


def _length(given: str | None, size: int) -> int:
    if given is None:
        return size
    if not (given.isascii() and given.isdigit() and len(given) <= 12 and int(given) <= size):
        raise InvalidArgumentError(f"{LENGTH_HEADER}: {given!r}, where the body has {size} bytes")
    return int(given)


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidArgumentError(f"{where}: a JSON object is expected")
    return value


def _text(given: dict[str, Any], key: str, where: str) -> str:
    value = given.get(key)
    if not isinstance(value, str):
        raise InvalidArgumentError(f"{where}.{key}: a JSON string is expected")
    return value


def _shape(value: Any, where: str) -> list[int]:
    good = isinstance(value, list) and all(
        isinstance(each, int) and not isinstance(each, bool) and -_INT64 <= each < _INT64
        for each in value
    )
    if not good:
        raise InvalidArgumentError(f"{where}.shape: a JSON array of whole numbers is expected")
    return cast(list[int], value)


def _photos(data: list[Any], where: str) -> list[bytes]:
    found: list[bytes] = []
    for at, each in enumerate(_flat(data)):
        try:
            found.append(base64.b64decode(each, validate=True))
        except (TypeError, ValueError, binascii.Error) as error:
            raise InvalidArgumentError(
                f"{where}.data: element {at} is no photo in base64: {error}"
            ) from error
    return found


def _numbers(data: list[Any], where: str) -> list[int]:
    try:
        values = np.array(data)
    except ValueError as error:
        raise InvalidArgumentError(f"{where}.data: rows of different lengths") from error
    if values.size and (values.dtype.kind not in "iu" or values.min() < 0 or values.max() > 255):
        raise InvalidArgumentError(f"{where}.data: whole numbers from 0 to 255 are expected")
    return cast(list[int], values.ravel().tolist())


def _flat(data: list[Any]) -> list[Any]:
    """Return the elements of an array, which may have one level of rows."""
    return [each for row in data for each in (row if isinstance(row, list) else [row])]


def _set_parameters(into: Any, given: dict[str, Any], where: str) -> None:
    for name, value in given.items():
        parameter = into[name]
        if isinstance(value, bool):
            parameter.bool_param = value
        elif isinstance(value, int) and -_INT64 <= value < _INT64:
            parameter.int64_param = value
        elif isinstance(value, float):
            parameter.double_param = value
        elif isinstance(value, str):
            parameter.string_param = value
        else:
            raise InvalidArgumentError(f"{where}.{name}: a number, a string or a truth value")


def _as_bytes(tensor: pb.ModelInferResponse.InferOutputTensor) -> bytes:
    if tensor.datatype == "BYTES":
        return b"".join(
            struct.pack("<I", len(each)) + each for each in tensor.contents.bytes_contents
        )
    return np.array(tensor.contents.fp32_contents, "<f4").tobytes()


def _as_list(
    tensor: pb.ModelInferResponse.InferOutputTensor, raw: bytes | None
) -> Sequence[float | str]:
    if tensor.datatype != "BYTES":
        found = tensor.contents.fp32_contents if raw is None else np.frombuffer(raw, "<f4").tolist()
        return list(found)
    if raw is None:
        return [each.decode() for each in tensor.contents.bytes_contents]
    texts: list[str] = []
    at = 0
    while at < len(raw):
        (size,) = struct.unpack_from("<I", raw, at)
        texts.append(raw[at + 4 : at + 4 + size].decode())
        at += 4 + size
    return texts
