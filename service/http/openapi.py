"""The OpenAPI document: paths from the routes, words from their docstrings, shapes from the protos.

Nothing is described twice, so nothing can drift: a new route is in the document automatically.
"""

import inspect
import re
from collections.abc import Sequence
from typing import Any

from google.protobuf.descriptor import Descriptor
from starlette.routing import Route

from service import __version__
from service.config import MAX_IMAGES_PER_CALL
from service.http.calls import TIMEOUT_HEADER
from service.http.photos import QUERY
from service.pb import classifier_pb2 as classifier_pb
from service.pb import inference_pb2 as pb

_TENSOR = {
    "type": "object",
    "required": ["name", "datatype", "shape"],
    "properties": {
        "name": {"type": "string"},
        "datatype": {"type": "string", "enum": ["BYTES", "UINT8", "FP32"]},
        "shape": {"type": "array", "items": {"type": "integer"}},
        "parameters": {"type": "object"},
        "data": {"type": "array", "items": {}},
    },
}
_TENSORS = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "parameters": {"type": "object"},
        "inputs": {"type": "array", "items": _TENSOR},
        "outputs": {"type": "array", "items": _TENSOR},
    },
}
_BINARY = {"type": "string", "format": "binary"}
_PROBLEM = {
    "type": "object",
    "description": "RFC 9457, with google.rpc's code; `error` repeats `detail`.",
    "required": ["status", "title", "detail", "code", "error"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string"},
        "error": {"type": "string"},
        "retryAfterS": {"type": "number"},
    },
}

_REQUESTS: dict[str, dict[str, Any]] = {
    "classify": {
        "image/*": _BINARY,
        "multipart/form-data": {
            "type": "object",
            "properties": {
                "photo": {"type": "array", "items": _BINARY, "maxItems": MAX_IMAGES_PER_CALL}
            },
        },
        "application/json": classifier_pb.ClassifyRequest.DESCRIPTOR,
    },
    "report_mistake": {"image/*": _BINARY},
    "infer": {"application/json": _TENSORS, "application/octet-stream": _BINARY},
    "index": {"application/json": {"type": "object", "properties": {"ready": {"type": "boolean"}}}},
}
"""Endpoint → media type → schema, or the message whose JSON it is."""

_ANSWERS: dict[str, Any] = {
    "classify": classifier_pb.ClassifyResponse.DESCRIPTOR,
    "report_mistake": classifier_pb.ReportMistakeResponse.DESCRIPTOR,
    "model": classifier_pb.Model.DESCRIPTOR,
    "infer": _TENSORS,
    "server_metadata": pb.ServerMetadataResponse.DESCRIPTOR,
    "model_metadata": pb.ModelMetadataResponse.DESCRIPTOR,
    "model_config": pb.ModelConfig.DESCRIPTOR,
    "statistics": pb.ModelStatisticsResponse.DESCRIPTOR,
    "index": {"type": "array", "items": pb.RepositoryIndexResponse.ModelIndex.DESCRIPTOR},
}
"""Endpoint → schema of its answer, or the message; any object where none is named."""

_PARAMETERS: dict[str, Sequence[tuple[str, str, str]]] = {
    "classify": [
        ("query", QUERY[0], "Classes per photo, the likeliest first; 0 means 5."),
        ("query", QUERY[1], "The version to answer; 0 means the one that serves."),
        ("query", QUERY[2], "PRIORITY_INTERACTIVE or PRIORITY_BULK."),
        ("header", TIMEOUT_HEADER, "The call's deadline, in milliseconds from now."),
    ],
    "report_mistake": [
        ("query", "label", "What is on the photo; empty: unknown, or none of the classes."),
    ],
    "model": [("query", "version", "The version; 0 means the one that serves.")],
    "infer": [("header", TIMEOUT_HEADER, "The call's deadline, in milliseconds from now.")],
}


def document(routes: Sequence[Route]) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of these routes."""
    schemas: dict[str, Any] = {"Problem": _PROBLEM}
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        name, words = route.endpoint.__name__, inspect.getdoc(route.endpoint)
        if not words:  # what is not offered, and answered all the same
            continue
        for method in sorted((route.methods or set()) - {"HEAD"}):
            paths.setdefault(route.path, {})[method.lower()] = _operation(
                name, words, route.path, schemas
            )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Hansang",
            "version": __version__,
            "description": "Names the dishes on photos. The same methods are served over gRPC.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        # Where the server asks for no tokens, none is needed.
        "security": [{"token": []}, {}],
    }


def _operation(name: str, words: str, path: str, schemas: dict[str, Any]) -> dict[str, Any]:
    parameters = [
        {"in": "path", "name": each, "required": True, "schema": {"type": "string"}}
        for each in re.findall(r"\{(\w+)\}", path)
    ] + [
        {"in": place, "name": each, "description": about, "schema": {"type": "string"}}
        for place, each, about in _PARAMETERS.get(name, ())
    ]
    # A path with a version is another operation to OpenAPI.
    number = "_of_version" if "{version}" in path else "_of_all" * path.endswith("models/stats")
    answer = _schema(_ANSWERS.get(name, {"type": "object"}), schemas, rest=path[:3] != "/v1")
    found: dict[str, Any] = {
        "operationId": name + number,
        "summary": words.partition("\n")[0],
        "parameters": parameters,
        "responses": {
            "200": {
                "description": "The answer.",
                "content": {"application/json": {"schema": answer}},
            },
            "default": {
                "description": "A problem; `Retry-After` says when to try again, if ever.",
                "content": {
                    "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}
                },
            },
        },
    }
    if name in _REQUESTS:
        found["requestBody"] = {
            "content": {
                kind: {"schema": _schema(schema, schemas, rest=path[:3] != "/v1")}
                for kind, schema in _REQUESTS[name].items()
            }
        }
    return found


def _schema(of: Any, schemas: dict[str, Any], *, rest: bool) -> dict[str, Any]:
    """Return the schema of a message, or a schema with messages in it.

    Args:
        of: The message's descriptor, or the schema.
        schemas: Takes the messages that are referred to.
        rest: Whether names and numbers are as `tensors_json.plain` writes them, or as protobuf's
            JSON mapping does.
    """
    if isinstance(of, dict):
        return {
            key: _schema(value, schemas, rest=rest)
            if isinstance(value, dict) or hasattr(value, "full_name")
            else value
            for key, value in of.items()
        }
    if of.full_name == "google.protobuf.Any":
        return {"type": "object"}
    if of.full_name not in schemas:
        schemas[of.full_name] = {}  # a message may hold itself
        schemas[of.full_name] = _message(of, schemas, rest=rest)
    return {"$ref": f"#/components/schemas/{of.full_name}"}


def _message(of: Descriptor, schemas: dict[str, Any], *, rest: bool) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {
            field.name if rest else field.json_name: _field(field, schemas, rest=rest)
            for field in of.fields
        },
    }


def _field(field: Any, schemas: dict[str, Any], *, rest: bool) -> dict[str, Any]:
    if field.message_type and field.message_type.GetOptions().map_entry:
        value = field.message_type.fields_by_name["value"]
        return {"type": "object", "additionalProperties": _field(value, schemas, rest=rest)}
    if field.message_type:
        one = _schema(field.message_type, schemas, rest=rest)
    elif field.enum_type:
        one = {"type": "string", "enum": [each.name for each in field.enum_type.values]}
    else:
        one = _scalar(field, rest=rest)
    return {"type": "array", "items": one} if field.is_repeated else one


def _scalar(field: Any, *, rest: bool) -> dict[str, Any]:
    if field.type == field.TYPE_BYTES:
        return {"type": "string", "format": "byte"}
    if field.type == field.TYPE_STRING:
        return {"type": "string"}
    if field.type == field.TYPE_BOOL:
        return {"type": "boolean"}
    if field.type in (field.TYPE_DOUBLE, field.TYPE_FLOAT):
        return {"type": "number"}
    wide = field.type in (field.TYPE_INT64, field.TYPE_UINT64)
    # JavaScript has no 64-bit numbers, so that protobuf writes them as texts.
    return {"type": "string"} if wide and not rest else {"type": "integer"}
