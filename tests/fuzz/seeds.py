"""Good inputs to begin from: a fuzzer that starts from nothing takes hours to make a header."""

import base64
import io
import json
import struct
from collections.abc import Callable

from PIL import Image

from benchmarks.trouble import pictures
from service.pb import classifier_pb2, inference_pb2

_EXIF = b"MM\0*\0\0\0\x08\0\1" + struct.pack(">HHIHxx", 0x0112, 3, 1, 6)
_XMP = b'<x tiff:Orientation="6"/>'
_CONFIG = b"""name: "food"
backend: "onnxruntime"
max_batch_size: 64
input { name: "images" data_type: TYPE_UINT8 dims: [8, 8, 3] }
output { name: "probabilities" data_type: TYPE_FP32 dims: 3 label_filename: "1/labels.txt" }
version_policy { specific { versions: 1 } }
parameters { key: "hansang.served_before" value { string_value: "1 2" } }
instance_group [ { count: 2 kind: KIND_CPU } ]
"""


def _images() -> list[bytes]:
    # Of another size than the others: two readers that differ must be able to show it.
    small = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(small, "JPEG")
    return [*pictures.seeds(), small.getvalue()]


def _exifs() -> list[bytes]:
    block = b"Exif\0\0" + _EXIF
    return [struct.pack("<H", len(block)) + block + _XMP, b"\0\0" + _XMP]


def _small() -> bytes:
    return min(pictures.seeds(), key=len)


def _infer() -> inference_pb2.ModelInferRequest:
    photo = _small()
    request = inference_pb2.ModelInferRequest(model_name="food", id="1")
    request.inputs.add(name="images", datatype="BYTES", shape=[1, 1])
    request.raw_input_contents.append(struct.pack("<I", len(photo)) + photo)
    return request


def _pixels() -> inference_pb2.ModelInferRequest:
    request = inference_pb2.ModelInferRequest(model_name="food")
    request.inputs.add(name="images", datatype="UINT8", shape=[1, 8, 8, 3])
    request.raw_input_contents.append(bytes(192))
    request.outputs.add(name="probabilities").parameters["classification"].int64_param = 2
    return request


def _tensors() -> list[bytes]:
    return [
        b"\0" + _infer().SerializeToString(),
        b"\0" + _pixels().SerializeToString(),
        b"\1\x13\1\1\0\0" + struct.pack("<I", 3) + b"abc",
    ]


def _streams() -> list[bytes]:
    good = classifier_pb2.ClassifyRequest(images=[_small()], top_k=1).SerializeToString()
    infer, pixels = _infer().SerializeToString(), _pixels().SerializeToString()

    def framed(method: int, *messages: bytes) -> bytes:
        parts = [struct.pack("<H", len(each)) + each for each in messages]
        return bytes((method, 0)) + b"".join(parts)

    return [
        framed(0, good, b"", good), framed(1, infer, pixels), framed(0, good, b"\xff\xff"),
        b"\0\1" + framed(0, good, good)[2:],
    ]  # fmt: skip


def _bodies() -> list[bytes]:
    photo = _small()
    text = base64.b64encode(photo).decode()
    tensor = {"name": "images", "datatype": "BYTES", "shape": [1, 1]}
    infer = json.dumps({"inputs": [tensor | {"data": [text]}]}).encode()
    binary = json.dumps(
        {"inputs": [tensor | {"parameters": {"binary_data_size": len(photo) + 4}}]}
    ).encode()
    pixels = {"name": "images", "datatype": "UINT8", "shape": [1, 8, 8, 3], "data": [0] * 192}
    form = b'--x\r\nContent-Disposition: form-data; name="a"; filename="b"\r\n\r\n%s\r\n--x--\r\n'
    return [
        b"\0\0\0" + json.dumps({"images": [text], "topK": 2}).encode(),
        b"\0\1\x06topK=2" + photo,
        b"\0\2\0" + form % photo,
        b"\1\0\0" + infer,
        b"\1\0\0" + json.dumps({"inputs": [pixels]}).encode(),
        b"\1\xf0\0" + binary.ljust(224) + struct.pack("<I", len(photo)) + photo,
        b"\2\0\0" + json.dumps({"ready": True}).encode(),
    ]


def seeds(name: str) -> list[bytes]:
    """Return the inputs that a target begins with."""
    made: dict[str, Callable[[], list[bytes]]] = {
        "image": _images,
        "exif": _exifs,
        "tensor": _tensors,
        "config": lambda: [_CONFIG],
        "stream": _streams,
        "body": _bodies,
    }
    return made[name]()
