"""What another site's page may do in a visitor's browser: nothing, unless its origin is named."""

from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import ForbiddenError
from service.http.problems import problem


class SameOrigin:
    """Refuses what a browser sends for a page of another origin.

    CORS keeps a strange page from reading answers; this keeps it from calling at all, for instance
    to unload a model of a server that only its visitor can reach.
    """

    def __init__(self, app: ASGIApp, others: Sequence[str] = ()) -> None:
        self._app = app
        self._others = frozenset(others)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what no browser sends, and what the own pages send."""
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
