"""Fixtures of the service's tests: tiny models, photos of one colour, servers on free ports."""

import asyncio
import io
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from time import monotonic

import grpc
import pytest
from PIL import Image

from tests.paths import ROOT
from tests.service.tiny_onnx import build

COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "dark": (40, 0, 0),
}


# What was on the path stays on it, behind: packages that were brought along lie there.
_PATHS = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
SERVE = """
import json, sys
from pathlib import Path
from service.config import ServerConfig
from service.observability.logs import set_up
from service.server.process import run
from service.server.replicas import supervise
settings = json.loads(sys.argv[1])
for name in {"repository", "tokens"} & settings.keys():
    settings[name] = Path(settings[name])
set_up(style="json")
exec(settings.pop("before"))
config = ServerConfig(**settings)
say = lambda line: print(line, flush=True)
sys.exit((supervise if config.workers > 1 else run)(config, ready=say))
"""


class Process(subprocess.Popen):
    """A server in a process of its own; its logs lie in a file."""

    port: int
    logs: Path

    def ready(self) -> str:
        """Wait until it serves; return what it says then."""
        line = self.stdout.readline()
        assert line, self.logs.read_text()
        self.port = int(line.rsplit(":", 1)[1])
        return line


@pytest.fixture
def process(tmp_path) -> Iterator[Callable[..., Process]]:
    """Give `process(max_batch=…)`: `before` is code that runs in the server's process first."""
    with ExitStack() as ended:

        def start(*, before: str = "", wait: bool = True, **changes) -> Process:
            settings = {
                "repository": str(tmp_path / "models"),
                "host": "127.0.0.1",
                "port": 0,
                "http_port": None,
                "metrics_port": None,
                "device": "cpu",
                "runs": 1,
                "poll_interval_s": 0.05,
                "drain_delay_s": 0.0,
                "before": before,
            }
            logs = tmp_path / f"server-{len(list(tmp_path.glob('server-*')))}.log"
            server = Process(
                [sys.executable, "-c", SERVE, json.dumps({**settings, **changes})],
                stdout=subprocess.PIPE,
                stderr=ended.enter_context(logs.open("w")),
                text=True,
                env={**os.environ, "PYTHONPATH": _PATHS, "ORT_DISABLE_TELEMETRY": "1"},
            )
            server.logs = logs
            ended.enter_context(server)
            ended.callback(server.kill)
            if wait:
                server.ready()
            return server

        yield start


@pytest.fixture
def tiny_onnx() -> Callable[..., Path]:
    """`tiny_onnx(path, labels=…, weights=…, …)` writes a tiny model; see tiny_onnx.build."""
    return build


@pytest.fixture(scope="session")
def photo() -> Callable[..., bytes]:
    """`photo("red")` is a photo of that colour, encoded as JPEG unless told otherwise."""

    def encode(colour: str, *, size: tuple[int, int] = (20, 16), kind: str = "JPEG") -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", size, COLOURS[colour]).save(buffer, kind)
        return buffer.getvalue()

    return encode


@pytest.fixture
def publish(tmp_path, tiny_onnx) -> Callable[..., int]:
    """Give `publish("food", labels=…)`: it releases a tiny model into `tmp_path/models`."""
    from service.models.repository import ModelRepository

    def release(name: str = "food", *, repository: Path = tmp_path / "models", **build) -> int:
        repository.mkdir(exist_ok=True)
        return ModelRepository(repository).publish(name, tiny_onnx(tmp_path / "tiny.onnx", **build))

    return release


@pytest.fixture
def config(tmp_path) -> Callable[..., object]:
    """Give `config(max_batch=…)`: a server's config: free ports, one worker, a quick poll."""
    from service.config import ServerConfig

    def make(**changes) -> ServerConfig:
        settings = {
            "repository": tmp_path / "models",
            "host": "127.0.0.1",
            "port": 0,
            "http_port": None,
            "metrics_port": None,
            "device": "cpu",
            "runs": 1,
            "decode_threads": 1,
            "max_batch": 8,
            "poll_interval_s": 0.02,
            "drain_s": 10,
        }
        return ServerConfig(**{**settings, **changes})

    return make


@pytest.fixture
async def serve(config) -> AsyncIterator[Callable[..., Awaitable[object]]]:
    """Start servers, told what differs in their config; they are stopped after the test."""
    from service.server.server import Server

    async with AsyncExitStack() as servers:

        async def start(**changes) -> Server:
            return await servers.enter_async_context(Server(config(**changes)))

        yield start


@pytest.fixture
async def connect() -> AsyncIterator[Callable[[int], object]]:
    """Give `connect(port)`, a stub of hansang.v1.Classifier, and `connect.channel(port)`."""
    from service.pb.classifier_pb2_grpc import ClassifierStub

    async with AsyncExitStack() as channels:
        opened = []

        def channel(port: int) -> grpc.aio.Channel:
            opened.append(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
            channels.push_async_callback(opened[-1].close)
            return opened[-1]

        def stub(port: int) -> ClassifierStub:
            return ClassifierStub(channel(port))

        stub.channel = channel
        yield stub


@pytest.fixture(scope="session")
def eventually() -> Callable[..., Awaitable[None]]:
    """Wait until a condition holds; fail when it does not within 10 s."""

    async def wait(condition: Callable[[], object], *, within_s: float = 10) -> None:
        end_s = monotonic() + within_s
        while not condition():
            assert monotonic() < end_s, "it did not come to hold"
            await asyncio.sleep(0.005)

    return wait
