"""The methods of a gRPC server, each wrapped once."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import grpc


class Methods:
    """Collects the methods of services, wrapped. Generated code adds services as to a server.

    gRPC's own interceptors wrap as well, but every call passes through all of them before its
    method is found.

    Attributes:
        services: Service → method → handler.
    """

    def __init__(self, wrap: Callable[[str, Any], Any]) -> None:
        """Start with none; `wrap` takes a method's full name and its handler, and returns one."""
        self._wrap = wrap
        self.services: dict[str, dict[str, Any]] = {}

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Add the methods of a service, by their names in it."""
        self.services[service] = {
            name: self._wrap(f"/{service}/{name}", handler) for name, handler in handlers.items()
        }

    def add_generic_rpc_handlers(self, handlers: Iterable[Any]) -> None:
        """Do nothing: generated code adds the same methods by their names, too."""

    def add_to(self, server: grpc.aio.Server) -> None:
        """Have a server answer these methods, before it starts.

        Each is registered by its name. gRPC then has a queue of new calls for each, and a burst of
        one method does not hold up health checks.
        """
        for service, handlers in self.services.items():
            server.add_registered_method_handlers(service, handlers)  # type: ignore[attr-defined]
