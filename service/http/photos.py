"""The body of `:classify`: a photo as it is, photos as multipart parts, or the message as JSON."""

import logging
from typing import Any, TypeAlias

from google.protobuf import json_format
from starlette.datastructures import Headers
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import Response

from service.config import MAX_IMAGES_PER_CALL
from service.errors import InvalidArgumentError
from service.http.body import made_of
from service.http.tensors_json import parse
from service.pb import classifier_pb2 as pb

Query: TypeAlias = dict[str, str]

# It writes a line for each byte that it did not expect: whatever anybody sends would fill the log.
logging.getLogger("python_multipart").setLevel(logging.ERROR)

QUERY = ("topK", "modelVersion", "priority")
"""Fields of ClassifyRequest that a URL may set."""


async def read_classify(request: Request, body: bytes) -> pb.ClassifyRequest:
    """Return the message that a body and its URL stand for.

    Raises:
        InvalidArgumentError: They cannot be read; the message tells why.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        message = await made_of(body, lambda: _parsed(parse(body)))
    elif kind == "multipart/form-data":
        message = pb.ClassifyRequest(images=await _parts(request.headers, body))
    else:  # image/*, application/octet-stream, and what curl sends by default
        message = pb.ClassifyRequest(images=[body])
    model = request.path_params["model"]
    if message.model not in ("", model):
        raise InvalidArgumentError(f"model: {message.model!r}, where the URL has {model!r}")
    unknown = set(request.query_params) - set(QUERY)
    if unknown:
        raise InvalidArgumentError(
            f"{min(unknown)!r} is no parameter of the URL; there are {', '.join(QUERY)}"
        )
    given = _parsed(dict(request.query_params))
    given.model = model
    message.MergeFrom(given)
    return message


def mapped(message: Any) -> Response:
    """Return a message in protobuf's JSON mapping, with fields that are 0 or empty."""
    text = json_format.MessageToJson(
        message, always_print_fields_with_no_presence=True, ensure_ascii=False, indent=None
    )
    return Response(text.encode(), media_type="application/json")


def _parsed(given: dict[str, Any]) -> pb.ClassifyRequest:
    try:
        return json_format.ParseDict(given, pb.ClassifyRequest())
    except (json_format.ParseError, TypeError, ValueError) as error:
        raise InvalidArgumentError(f"no ClassifyRequest: {error}") from error


async def _parts(headers: Headers, body: bytes) -> list[bytes]:
    """Return the photos of a form; the names of its fields do not matter."""

    async def stream() -> Any:
        yield body

    parser = MultiPartParser(
        headers, stream(), max_files=MAX_IMAGES_PER_CALL, max_fields=0, max_part_size=0
    )
    # The body is bounded and in memory already, so nothing is written to the disk.
    parser.spool_max_size = len(body)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise InvalidArgumentError(
            f"multipart: {error.message} (1 to {MAX_IMAGES_PER_CALL} files are accepted,"
            " as from curl -F photo=@photo.jpg)"
        ) from error
    except (KeyError, ValueError) as error:
        raise InvalidArgumentError(f"multipart: the body cannot be read: {error}") from error
    try:
        return [await file.read() for _, file in form.multi_items() if not isinstance(file, str)]
    finally:
        await form.close()
