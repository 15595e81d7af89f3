"""Addresses to listen on: IPv6 with and without brackets, and why one cannot be had."""

import errno
import socket

from service.errors import UnavailableError


def with_port(host: str, port: int) -> str:
    """Return `host:port`, with IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def bound(what: str, host: str, port: int, *, shares: bool, flag: str) -> socket.socket:
    """Return a socket that has the port, and does not listen yet.

    Args:
        what: Who wants it, for the message.
        host: A name or an address of this machine; IPv6 without brackets.
        port: 0 is a free one.
        shares: Whether other processes listen on the same port.
        flag: The option that chooses another port, for the message.

    Raises:
        UnavailableError: It cannot be had; the message says why, and what to do.
    """
    found = None
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shares:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        found.bind(address)
    except (OSError, UnicodeError) as error:
        if found is not None:
            found.close()
        number = getattr(error, "errno", None)
        if isinstance(error, UnicodeError | socket.gaierror) or number == errno.EADDRNOTAVAIL:
            help_ = "it is no address of this machine: choose one with --host"
        elif number == errno.EADDRINUSE:
            help_ = f"another server is there: choose another with {flag}"
        else:
            help_ = f"choose another with --host or {flag}"
        reason = getattr(error, "strerror", None) or error
        raise UnavailableError(
            f"{what} cannot listen on {with_port(host, port)} ({reason}); {help_}"
        ) from error
    return found
