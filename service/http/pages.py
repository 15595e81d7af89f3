"""Pages and files for people."""

from starlette.routing import Route


def pages(*, with_try: bool) -> list[Route]:
    """Return the routes of what people open."""
    del with_try
    return []
