"""The gRPC port: limits of its connections, opening it, and ending its calls."""

import asyncio

import grpc

from service.addresses import bound
from service.api.tls import Certificates
from service.config import ServerConfig
from service.errors import UnavailableError
from service.server.methods import Methods

_MAX_CALLS_PER_CONNECTION = 512
"""Calls of one connection at a time; further ones wait in the client."""

_MAX_PENDING = 8192
"""Calls that may wait for the event loop to accept them. gRPC silently cancels more; its default
begins at 1,000."""

MIN_PING_INTERVAL_MS = 10_000
"""Clients that ping more often are cut off, whether calls are open or not."""


def new_server(config: ServerConfig, methods: Methods, *, shares_port: bool) -> grpc.aio.Server:
    """Return a gRPC server with these methods that does not listen yet."""
    server = grpc.aio.server(
        options=[
            # On by default, so that a second server on the port would silently take half the calls.
            ("grpc.so_reuseport", int(shares_port)),
            ("grpc.max_receive_message_length", config.max_message_bytes),
            ("grpc.max_send_message_length", config.max_message_bytes),
            ("grpc.max_concurrent_streams", _MAX_CALLS_PER_CONNECTION),
            # gRPC counts ended calls until they are freed, and would reset new ones meanwhile.
            ("grpc.http.overload_protection", 0),
            ("grpc.server.max_pending_requests", _MAX_PENDING),
            ("grpc.server.max_pending_requests_hard_limit", _MAX_PENDING),
            # By default the window for unread data grows from 64 kB to some MB for each call.
            ("grpc.http2.bdp_probe", 0),
            # Callers fill the headers; a token and a trace fit well into this.
            ("grpc.max_metadata_size", 16 * 2**10),
            # Notice a peer that vanished, and cut off one that pings too often.
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.keepalive_timeout_ms", 20_000),
            # By default, gRPC accepts only one ping in two hours while no call is open.
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", MIN_PING_INTERVAL_MS),
            ("grpc.http2.max_ping_strikes", 2),
        ],
    )
    methods.add_to(server)
    return server


def bind(server: grpc.aio.Server, config: ServerConfig, address: str, flag: str) -> int:
    """Open a port, with TLS if it is configured, and return its number.

    Raises:
        UnavailableError: It cannot be opened; the message says why, and names `flag`, which
            chooses another.
        InvalidArgumentError: The certificates cannot be used.
    """
    try:
        certificates = Certificates.of(config)
        if certificates is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, certificates.credentials())
    except RuntimeError as error:
        # gRPC does not say why.
        host, _, port = address.rpartition(":")
        bound("gRPC", host.strip("[]"), int(port), shares=False, flag=flag).close()
        raise UnavailableError(
            f"gRPC cannot listen on {address} ({error}); choose another with --host or {flag}"
        ) from error


async def stop(server: grpc.aio.Server, grace_s: float, aborting: asyncio.Event) -> None:
    """Take no new calls, and cut off those in flight after `grace_s` or when `aborting` is set."""
    stopping = asyncio.ensure_future(server.stop(grace_s))
    aborted = asyncio.ensure_future(aborting.wait())
    await asyncio.wait({stopping, aborted}, return_when=asyncio.FIRST_COMPLETED)
    aborted.cancel()
    if not stopping.done():
        await server.stop(None)
    await stopping
