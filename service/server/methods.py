"""The methods of a gRPC server, each wrapped once."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import grpc


class Methods(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in stubs alone
    """Collects the methods of services, and finds one by its name.

    Generated code adds services to it as to a server. gRPC's own interceptors wrap as well, but
    every call passes through all of them before its method is found.
    """

    def __init__(self, wrap: Callable[[str, Any], Any]) -> None:
        """Start with none; `wrap` takes a method's full name and its handler, and returns one."""
        self._wrap = wrap
        self._handlers: dict[str, Any] = {}

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Add the methods of a service, by their names in it."""
        for name, handler in handlers.items():
            method = f"/{service}/{name}"
            self._handlers[method] = self._wrap(method, handler)

    def add_generic_rpc_handlers(self, handlers: Iterable[Any]) -> None:
        """Do nothing: generated code adds the same methods by their names, too."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Return the handler of a call's method; None if there is none."""
        return self._handlers.get(handler_call_details.method)
