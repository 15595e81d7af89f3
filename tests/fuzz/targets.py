"""What is fuzzed: functions of bytes that raise if a promise is broken, whatever the bytes are.

atheris looks for such bytes (`make fuzz`); `test_found.py` replays those that it found.
"""

import struct
import time
from collections.abc import Callable

import simplejpeg
from google.protobuf.message import DecodeError

from service.api import tensors
from service.api.inference import CallOptions
from service.errors import ImageError, InvalidArgumentError, ModelContractError
from service.models import triton_config
from service.pb import inference_pb2 as pb
from service.pixels import jpeg_header, orientation, preprocessing
from service.pixels.budget import Budget
from tests.fuzz.door import Door
from tests.fuzz.parts import Parts

MOST_S = 2.0
"""CPU time of one input, instrumented; what takes longer is a fault."""

_SIDE = 32
_SMALL_PIXELS = 2_000_000


def image(data: bytes) -> None:
    """An image is decoded within its memory, or refused; libjpeg sees the size that we see."""
    small = jpeg_header.small(data) is not None
    try:
        picture = preprocessing._opened(data)
    except ImageError:
        return
    if picture.name == "JPEG":
        height, width, *_ = simplejpeg.decode_jpeg_header(picture._data, strict=False)  # type: ignore[union-attr]
        assert (width, height) == (picture.width, picture.height)
        assert not small or width * height <= _SMALL_PIXELS
    try:
        square = preprocessing.load_square(data, _SIDE, budget=Budget(48 * 2**20))
    except ImageError:
        return
    assert square.shape == (_SIDE, _SIDE, 3)


def exif(data: bytes) -> None:
    """Whatever EXIF and XMP hold, there is one orientation."""
    parts = Parts(data)
    block = parts.take(parts.number(2))
    assert 1 <= orientation.read(block, parts.rest()) <= 8


def tensor(data: bytes) -> None:
    """A request's tensors are as its shape says, or it is refused."""
    parts = Parts(data)
    try:
        request = (
            _request(parts)
            if parts.number(1) % 2
            else pb.ModelInferRequest.FromString(parts.rest())
        )
    except DecodeError:
        return
    try:
        images = tensors.read_images(request, 4)
        tensors.read_options(request, CallOptions())
        for output in request.outputs:
            tensors.count_of_classes(output)
    except InvalidArgumentError:
        return
    assert 1 <= len(images) <= 64
    if not isinstance(images, list):
        assert images.shape[1:] == (4, 4, 3)


def config(data: bytes) -> None:
    """A `config.pbtxt` is read, or refused; what is read can be changed, written and read again."""
    try:
        found = triton_config.parse(data, "config.pbtxt")
    except ModelContractError:
        return
    triton_config.serving_version(found)
    before = triton_config.served_before(found) or [1]
    line = triton_config.line(found) or {"version": 7}
    triton_config.set_serving(found, "food", 7, image_size=64, classes=3, before=before, line=line)
    again = triton_config.parse(triton_config.to_text(found).encode(), "config.pbtxt")
    assert 7 == triton_config.serving_version(again)
    assert again == found


def stream(data: bytes) -> None:
    """Each message of a stream is answered in its order, and every counter returns to zero."""
    parts = Parts(data)
    method = parts.number(1)
    left_after = parts.number(1)
    messages = []
    while parts.left:
        messages.append(parts.take(parts.number(2)))
    _door().stream(method, messages, left_after)


def body(data: bytes) -> None:
    """Whatever is sent to the HTTP port, the status says whose fault it is, and never ours."""
    parts = Parts(data)
    route, header = parts.number(1), parts.number(1)
    _door().body(route, header, parts.take(parts.number(1)), parts.rest())


def _request(parts: Parts) -> pb.ModelInferRequest:
    """Return a request that is nearly right, so that more than the first check is reached."""
    request = pb.ModelInferRequest()
    kind = parts.number(1)
    given = request.inputs.add(
        name="images" if kind & 1 else "image",
        datatype=("BYTES", "UINT8", "FP32", "")[kind >> 1 & 3],
        shape=[struct.unpack("<b", parts.take(1).ljust(1, b"\1"))[0] for _ in range(kind >> 3 & 7)],
    )
    if parts.number(1) & 1:
        request.parameters["priority"].int64_param = parts.number(1) - 100
        request.parameters["timeout"].int64_param = parts.number(4) - 100
    if parts.number(1) & 1:
        output = request.outputs.add(name="probabilities")
        output.parameters["classification"].int64_param = parts.number(8) - 2**63
    if kind >> 6 & 1:
        given.contents.bytes_contents.extend([parts.take(3), parts.take(3)])
        given.contents.uint_contents.extend(parts.take(48))
    if kind >> 7 or not kind >> 6:
        request.raw_input_contents.append(parts.rest())
    return request


_doors: list[Door] = []


def _door() -> Door:
    """Return the server that every input of this process is sent to."""
    if not _doors:
        _doors.append(Door())
    return _doors[0]


TARGETS: dict[str, Callable[[bytes], None]] = {
    each.__name__: each for each in (image, exif, tensor, config, stream, body)
}


def check(name: str, data: bytes) -> None:
    """Try one input.

    Raises:
        AssertionError: A promise is broken, or it takes too long.
    """
    start_s = time.process_time()
    TARGETS[name](data)
    took_s = time.process_time() - start_s
    assert took_s <= MOST_S, f"{took_s:.1f} s for {len(data)} bytes"
