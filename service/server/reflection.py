"""Reflection: clients such as grpcurl list and describe the services without a proto file.

Both versions of its protocol are served; their messages are the same, under two names.
"""

from typing import Any

import grpc
from google.protobuf import descriptor_pool, text_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha import reflection_pb2 as pb

from service.server.methods import Methods

V1 = "grpc.reflection.v1.ServerReflection"
_POOL = descriptor_pool.Default()


class _Servicer(reflection.aio.ReflectionServicer):  # type: ignore[misc,name-defined]
    """grpc's own, which does not know methods by their names."""

    def _file_containing_symbol(self, request: Any, fully_qualified_name: str) -> Any:
        service, _, method = fully_qualified_name.rpartition(".")
        try:
            known = method in _POOL.FindServiceByName(service).methods_by_name
        except KeyError:
            known = False
        return super()._file_containing_symbol(request, service if known else fully_qualified_name)


def add_reflection(methods: Methods, services: tuple[str, ...]) -> None:
    """Describe these services, and reflection itself."""
    _describe_v1()
    servicer = _Servicer((*services, reflection.SERVICE_NAME, V1))
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=pb.ServerReflectionRequest.FromString,
        response_serializer=pb.ServerReflectionResponse.SerializeToString,
    )
    for name in (reflection.SERVICE_NAME, V1):
        methods.add_registered_method_handlers(name, {"ServerReflectionInfo": handler})


def _describe_v1() -> None:
    """Make v1 known to this process: the package brings v1alpha alone."""
    try:
        _POOL.FindServiceByName(V1)
    except KeyError:
        alpha, file = FileDescriptorProto(), FileDescriptorProto()
        pb.DESCRIPTOR.CopyToProto(alpha)
        text_format.Parse(text_format.MessageToString(alpha).replace("v1alpha", "v1"), file)
        _POOL.AddSerializedFile(file.SerializeToString())
