"""Refuses calls that a browser makes for pages of other sites, unless they are allowed."""

from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import ForbiddenError
from service.http.problems import problem


class SameOrigin:
    """Refuses requests that a browser sends for a page of another origin.

    CORS prevents another site's page from reading answers. This prevents its calls altogether, such
    as unloading a model of a server that only the visitor of that page can reach.
    """

    def __init__(self, app: ASGIApp, others: Sequence[str] = ()) -> None:
        self._app = app
        self._others = frozenset(others)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on requests without an origin, of our own pages, and of allowed origins."""
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        origin = headers.get("origin")
        if origin is None or self._is_welcome(origin, headers.get("host", "")):
            await self._app(scope, receive, send)
            return
        error = ForbiddenError(
            f"pages of {origin} may not call this server; name it with --cors-origin if they should"
        )
        await problem(error, close=True)(scope, receive, send)

    def _is_welcome(self, origin: str, host: str) -> bool:
        return bool(self._others & {origin, "*"}) or urlsplit(origin).netloc == host
