"""The application: the endpoints, the pages, and what holds for all of them."""

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.errors import NotFoundError, ServiceError
from service.http.calls import TIMEOUT_HEADER
from service.http.origins import SameOrigin
from service.http.problems import HttpError, problem
from service.http.tensors_json import LENGTH_HEADER


def build(routes: Sequence[Route], *, origins: Sequence[str] = ()) -> Starlette:
    """Return the application.

    Args:
        routes: Its endpoints and pages.
        origins: Sites whose pages may call as well; `*` is any.
    """
    guards = [Middleware(SameOrigin, others=origins)]
    if origins:
        guards.insert(
            0,
            Middleware(
                CORSMiddleware,
                allow_origins=list(origins),
                allow_methods=["GET", "POST"],
                allow_headers=["authorization", "content-type", TIMEOUT_HEADER, LENGTH_HEADER],
                expose_headers=["retry-after", LENGTH_HEADER],
            ),
        )
    app = Starlette(
        routes=routes,
        middleware=guards,
        exception_handlers={HTTPException: _refused, Exception: _failed, ServiceError: _told},  # type: ignore[dict-item]
    )
    app.router.redirect_slashes = False
    return app


async def _refused(request: Request, error: HTTPException) -> Response:
    path, method = request.url.path, request.method
    found: ServiceError = NotFoundError(f"there is no {path}; /openapi.json lists what there is")
    if error.status_code == 405:
        found = HttpError(405, f"{path} takes no {method}")
    return problem(found, close=method != "GET")


async def _told(request: Request, error: ServiceError) -> Response:  # noqa: ARG001
    return problem(error)


async def _failed(request: Request, error: Exception) -> Response:  # noqa: ARG001
    return problem(ServiceError("internal error"), close=True)
