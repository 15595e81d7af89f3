"""Fixtures of what is run in containers: `make image-test`, which needs a Docker engine."""

import json
import os
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest


def docker(*arguments: str, check: bool = True, timeout: float = 120) -> str:
    """Run the Docker client; return what it printed on both streams."""
    ran = subprocess.run(
        ["docker", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
    )
    assert not check or ran.returncode == 0, f"docker {' '.join(arguments)}: {ran.stdout}"
    return ran.stdout


class Container:
    """A container that runs in the background."""

    def __init__(self, name: str) -> None:
        self.name = name

    def run(self, *command: str, check: bool = True) -> str:
        """Run a command within it."""
        return docker("exec", self.name, *command, check=check)

    def state(self) -> dict:
        """Return Docker's word on it."""
        return json.loads(docker("inspect", "-f", "{{json .State}}", self.name))

    def logs(self) -> str:
        """Return what it printed."""
        return docker("logs", self.name)


@pytest.fixture(scope="session", autouse=True)
def _engine() -> None:
    if "HANSANG_IMAGES" not in os.environ:
        pytest.skip("make image-test builds the images that this looks at")


@pytest.fixture
def start() -> Iterator[Callable[..., Container]]:
    """Give `start(image, *flags)`: a container as production runs it, removed after the test."""
    with ExitStack() as removed:

        def run(image: str, *flags: str, command: tuple[str, ...] = ()) -> Container:
            name = f"hansang-test-{uuid.uuid4().hex[:8]}"
            hardened = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL")
            hardened += ("--security-opt", "no-new-privileges")
            docker("run", "--detach", "--name", name, *hardened, *flags, image, *command)
            removed.callback(docker, "rm", "--force", "--volumes", name)
            return Container(name)

        yield run
