"""Pages and files for people."""

from starlette.routing import Route


def pages(*, page: bool) -> list[Route]:
    """Return the routes of what people open."""
    del page
    return []
