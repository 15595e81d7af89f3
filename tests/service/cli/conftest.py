"""The command line as processes of their own, and a server to ask."""

import asyncio
import subprocess
from pathlib import Path

import pytest

from tests.service.cli.commands import hansang


@pytest.fixture
async def classify(publish, serve):
    """`await classify(photo, …)` runs `hansang classify` against a server with model `food`."""
    publish("food")
    server = await serve()

    async def run(*arguments: object) -> subprocess.CompletedProcess:
        address = f"127.0.0.1:{server.port}"
        return await asyncio.to_thread(hansang, "classify", *arguments, "--address", address)

    return run


@pytest.fixture
def photos(photo, tmp_path) -> Path:
    """A folder with a red and a blue photo, and things that are no photos."""
    folder = tmp_path / "photos"
    (folder / "inner.jpg").mkdir(parents=True)
    (folder / "[red] one.jpg").write_bytes(photo("red"))
    (folder / "inner.jpg" / "푸른.PNG").write_bytes(photo("blue", kind="PNG"))
    (folder / "notes.txt").write_text("no photo")
    (folder / "._hidden.jpg").write_text("no photo")
    return folder
