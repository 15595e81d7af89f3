"""The HTTP port: uvicorn's connections, bounded in number and time, on gRPC's event loop.

Each connection must send the head of a request, of at most 16 kB, within seconds; body.py bounds
the bodies. A drain lets calls in flight end, as gRPC does.
"""

import asyncio
import logging
import ssl
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Any, cast

import uvicorn
from starlette.responses import Response
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)
from uvicorn.server import ServerState

from service.addresses import bound
from service.api.tls import Certificates
from service.config import ServerConfig
from service.http.app import build
from service.http.endpoints import Api
from service.http.pages import pages

MAX_CONNECTIONS = 2048
_MAX_HEAD_BYTES = 16 * 2**10
_HEAD_S = 10.0
"""Seconds for the head of a request, from the connection or the first byte of it on."""
_IDLE_S = 75.0
"""Seconds that a connection may be idle between two requests."""
_CUT_S = 1.0
_REST_S = 20.0
"""Seconds for the rest of a body whose call is answered already."""


Refusal = Callable[[Any], Response | None]
"""Takes the ASGI scope of a request; returns its refusal, or None: the application answers it."""


class _LingeringTransport:
    """A transport that is closed once the whole request has come.

    If it were closed earlier, TCP would reset it, and a caller that still sends would not read the
    answer.
    """

    def __init__(self, connection: "_Connection") -> None:
        self._connection = connection
        self.write = connection.transport.write
        self.is_closing = connection.transport.is_closing

    def close(self) -> None:
        """Close the connection once the rest of the body has come, or too late."""
        self._connection.close_after_body()


class _Connection(HttpToolsProtocol):
    """A connection that is closed unless what the caller must send comes in time.

    What can be refused on its head is refused here, without a task and the application.
    """

    _due: asyncio.TimerHandle | None = None
    """Ends the connection unless the caller sends in time what must come next."""
    _head_bytes = 0
    _has_body = False
    """Whether the rest of a body is still to come."""
    _is_last = False
    """Whether no further request is answered."""

    def __init__(self, refusal: Refusal, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self._refusal = refusal

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
            return
        self._expect(_HEAD_S)

    def connection_lost(self, exc: Exception | None) -> None:
        self._came()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        self._expect(_HEAD_S)
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._came()
        self._has_body = True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._came()
        self._has_body = False
        super().on_message_complete()
        if self._is_last:
            self.transport.close()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._has_body and self.cycle.response_complete:
            self._expect(_REST_S)

    def close_after_body(self) -> None:
        """Close the connection once the rest of a body has come and was dropped."""
        if not self._has_body:
            self.transport.close()
            return
        self._is_last = True
        if self.transport.can_write_eof():  # TLS cannot
            self.transport.write_eof()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if self._is_last:  # the answer before this one said so
            return
        cycle.transport = cast("asyncio.Transport", _LingeringTransport(self))
        # A request that waited behind others, and a caller who does not read its answers, take the
        # usual way, which is bounded.
        at_once = cycle is self.cycle and not self.flow.write_paused
        refusal = self._refusal(cycle.scope) if at_once else None
        if refusal is None:
            super()._start_asgi_task(cycle, app)
            return
        headers = [*cycle.default_headers, *refusal.raw_headers]
        if not cycle.keep_alive and (b"connection", b"close") not in headers:
            headers.append((b"connection", b"close"))
        head = b"".join(b"%b: %b\r\n" % header for header in headers)
        status = STATUS_LINE[refusal.status_code]
        cycle.transport.write(b"%b%b\r\n%b" % (status, head, bytes(refusal.body)))
        cycle.response_started = cycle.response_complete = True
        if (b"connection", b"close") in headers:
            cycle.transport.close()
        self.on_response_complete()

    def _expect(self, seconds: float) -> None:
        self._came()
        self._due = self.loop.call_later(seconds, self.transport.abort)

    def _came(self) -> None:
        self._head_bytes = 0
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > _MAX_HEAD_BYTES:
            # The parser turns it into an error, and that into status 400 and the connection's end.
            raise ValueError("the head is too long")


class Listener:
    """One port, which is open from construction to `stop`.

    Attributes:
        port: Where it listens.
    """

    def __init__(
        self, app: ASGIApp, refusal: Refusal, host: str, port: int, *,
        tls: ssl.SSLContext | None, shares: bool,
    ) -> None:  # fmt: skip
        """Open the port; `start` accepts connections.

        Args:
            app: Answers requests.
            refusal: Refuses requests before that.
            host: Address to listen on.
            port: 0 is a free one.
            tls: None is plain text.
            shares: Whether other processes listen on the same port.

        Raises:
            UnavailableError: The port cannot be opened.
        """
        self._config = uvicorn.Config(
            app, http=_Connection, ws="none", lifespan="off", log_config=None, access_log=False,
            proxy_headers=False, server_header=False, timeout_keep_alive=int(_IDLE_S),
        )  # fmt: skip
        self._config.load()
        self._refusal = refusal
        # Whatever anybody sends would fill the log.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        self._state = ServerState()
        self._draining = False
        self._tls = tls
        self._socket = bound("HTTP", host, port, shares=shares, flag="--http-port, 0 for none")
        self.port: int = self._socket.getsockname()[1]
        self._server: asyncio.Server | None = None
        self._dating: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Accept connections."""
        self._server = await asyncio.get_running_loop().create_server(
            self._connection, sock=self._socket, ssl=self._tls, backlog=1024
        )
        self._dating = asyncio.create_task(self._date())

    def drain(self) -> None:
        """Close each connection after its next answer: callers then connect to another server."""
        self._draining = True
        self._set_headers()

    async def stop(self, grace_s: float, aborting: asyncio.Event) -> None:
        """Take no new requests, and let those in flight end.

        Args:
            grace_s: Seconds that they may take; then they are cut off.
            aborting: Once set, they are cut off.
        """
        if self._server is None or self._dating is None:
            self._socket.close()
            return
        self._server.close()
        self._dating.cancel()
        self.drain()
        for connection in list(self._state.connections):
            connection.shutdown()
        if tasks := set(self._state.tasks):
            aborted = asyncio.ensure_future(aborting.wait())
            ending = asyncio.ensure_future(asyncio.wait(tasks, timeout=grace_s))
            await asyncio.wait({aborted, ending}, return_when=asyncio.FIRST_COMPLETED)
            aborted.cancel()
            ending.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=_CUT_S)
        for connection in list(self._state.connections):
            connection.transport.close()

    def _connection(self) -> Any:
        return _Connection(
            self._refusal, config=self._config, server_state=self._state, app_state={}
        )

    async def _date(self) -> None:
        while True:
            self._set_headers()
            await asyncio.sleep(1)

    def _set_headers(self) -> None:
        """Set the headers that every response has."""
        date = (b"date", formatdate(time.time(), usegmt=True).encode())
        self._state.default_headers = [date, *[(b"connection", b"close")] * self._draining]


def http_listener(config: ServerConfig, api: Api, *, shares_port: bool) -> Listener:
    """Return the HTTP port of a server, which has its port already.

    Raises:
        UnavailableError: The port cannot be opened.
        InvalidArgumentError: The certificates cannot be used.
    """
    certificates = Certificates.of(config)
    return Listener(
        build(
            [*pages(api.routes(), with_try=not config.no_page), *api.routes()],
            origins=config.cors_origin or (),
        ),
        api.refusal,
        config.host,
        config.http_port or 0,
        tls=None if certificates is None else certificates.context(),
        shares=shares_port,
    )
