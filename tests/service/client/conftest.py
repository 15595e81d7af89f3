"""A client of a real server, for the tests of the callers' side."""

import pytest

from service.client.client import Classifier


@pytest.fixture
async def client(publish, serve):
    """`await client()` is a client of a server with the model `food`."""
    opened = []

    async def open_client(
        *, build: dict | None = None, timeout_s: float = 30, retries: int = 4, **changes
    ):
        publish("food", **(build or {}))
        server = await serve(**changes)
        opened.append(Classifier(f"127.0.0.1:{server.port}", timeout_s=timeout_s, retries=retries))
        return opened[-1]

    yield open_client
    for each in opened:
        each.close()
