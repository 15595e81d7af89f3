"""What the scenarios of trouble share: models, servers in processes of their own, and load."""

import asyncio
import importlib.util
import io
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
from PIL import Image

from service.models.repository import ModelRepository
from service.pb import classifier_pb2 as pb
from service.pb import classifier_pb2_grpc as pb_grpc

ROOT = Path(__file__).parents[1]
# What was on the path stays on it, behind: packages that were brought along lie there.
_PATHS = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
ENVIRONMENT = {**os.environ, "PYTHONPATH": _PATHS, "ORT_DISABLE_TELEMETRY": "1"}


def load(path: Path) -> object:
    """Import a file that is in no package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up.
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def real_model(path: Path, *, image_size: int, seed: int = 0, **more: str) -> Path:
    """Write a ResNet18 of 42 classes with random weights (needs the training environment).

    `more` are further properties of the file.
    """
    import json

    from service.pixels.preprocessing import PREPROCESSING
    from training.export.onnx_export import write_onnx
    from training.model.resnet import Served, build

    properties = {
        "schema_version": "1",
        "labels": json.dumps([f"dish-{number}" for number in range(42)]),
        "image_size": str(image_size),
        "resize": PREPROCESSING,
        **more,
    }
    write_onnx(Served(build(42, seed=seed)).eval(), image_size, path, properties)
    return path


def tiny_model(path: Path, **build: object) -> Path:
    """Write the tiny model of the service's tests."""
    from tests.service import tiny_onnx

    built: Path = tiny_onnx.build(path, **build)
    return built


@contextmanager
def published(*models: Path, name: str = "food") -> Iterator[ModelRepository]:
    """Release models, one version each, into a repository that is thrown away afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        store = ModelRepository(Path(folder))
        for model in models:
            store.publish(name, model)
        yield store


def photos(count: int, *, size: tuple[int, int] = (348, 260), seed: int = 0) -> list[bytes]:
    """Return JPEGs that look like photos to a decoder: smooth, with some noise."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
        noisy = np.asarray(image).astype(int) + rng.integers(-8, 9, (size[1], size[0], 3))
        buffer = io.BytesIO()
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=85)
        found.append(buffer.getvalue())
    return found


class Server:
    """`hansang serve` in a process of its own."""

    def __init__(
        self,
        repository: Path,
        *flags: str,
        port: int = 0,
        http_port: int = 0,
        cores: Collection[int] = (),
        environment: Mapping[str, str] = ENVIRONMENT,
    ) -> None:
        """Start it, on these cores alone if any are named; `ready` waits until it serves."""
        self.logs = Path(tempfile.mkstemp(suffix=".log")[1])
        self._file = self.logs.open("w")
        command = [
            *(sys.executable, "-m", "hansang", "serve", "--repository", str(repository)),
            *("--host", "127.0.0.1", "--port", str(port), "--device", "cpu"),
            *("--http-port", str(http_port or free_port()), "--metrics-port", str(free_port())),
            *flags,
        ]
        self.http_port = int(command[command.index("--http-port") + 1])
        self.metrics_port = int(command[command.index("--metrics-port") + 1])
        self.process = subprocess.Popen(command, stderr=self._file, env=environment)
        if cores:  # threads are started later, and inherit it
            os.sched_setaffinity(self.process.pid, cores)
        self.port = port

    def ready(self, *, within_s: float = 60) -> "Server":
        """Wait until it says that it serves."""
        end_s = time.monotonic() + within_s
        while time.monotonic() < end_s:
            for line in self.logs.read_text().splitlines():
                if line.startswith("serving "):
                    self.port = int(line.rsplit(":", 1)[1])
                    return self
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise RuntimeError(self.logs.read_text())

    def stop(self) -> int:
        """Send SIGTERM and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        self._file.close()
        return code

    def rss_mb(self) -> float:
        """Return its resident memory, that of its replicas included."""
        statuses = [Path(f"/proc/{each}/status").read_text() for each in self.pids()]
        return sum(int(status.split("VmRSS:")[1].split()[0]) for status in statuses) / 1024

    def threads(self) -> int:
        """Return how many threads it has."""
        return len(list(Path(f"/proc/{self.process.pid}/task").iterdir()))

    def fds(self) -> int:
        """Return how many file descriptors it holds."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def cpu_s(self) -> float:
        """Return the CPU time that it and its replicas have used."""
        return sum(self.each_cpu_s().values())

    def pids(self) -> list[int]:
        """Return the IDs of its process, and of those that it has started."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task").glob("*/children")
        return [pid, *(int(child) for each in children for child in each.read_text().split())]

    def each_cpu_s(self) -> dict[int, float]:
        """Return the CPU time of each process by its ID, its own first."""
        spent = {}
        for each in self.pids():
            fields = Path(f"/proc/{each}/stat").read_text().rsplit(")", 1)[1].split()
            spent[each] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return spent

    def metric(self, name: str) -> float:
        """Return the sum of a metric over its labels."""
        url = f"http://127.0.0.1:{self.metrics_port}/metrics"
        with urllib.request.urlopen(url, timeout=20) as answer:
            lines = answer.read().decode().splitlines()
        return sum(
            float(line.rsplit(" ", 1)[1])
            for line in lines
            if line.startswith((f"{name} ", f"{name}{{"))
        )

    def __enter__(self) -> "Server":
        return self.ready()

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._file.close()
        self.logs.unlink(missing_ok=True)


def free_port() -> int:
    """Return a port that nobody listens on."""
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@contextmanager
def own_core() -> Iterator[set[int]]:
    """Keep the last core for this process, which makes the load; yield those left for a server.

    What the load costs must not be taken from the server. On one core they have to share.
    """
    cores = os.sched_getaffinity(0)
    mine = {max(cores)}
    os.sched_setaffinity(0, mine)
    try:
        yield cores - mine or cores
    finally:
        os.sched_setaffinity(0, cores)


@asynccontextmanager
async def stub(target: str, *options: tuple[str, object]) -> AsyncIterator[pb_grpc.ClassifierStub]:
    """Connect without retries; some targets are lists of servers."""
    settings = [
        ("grpc.enable_retries", 0),
        ("grpc.enable_http_proxy", 0),
        ("grpc.use_local_subchannel_pool", 1),
        *options,
    ]
    async with grpc.aio.insecure_channel(target, options=settings) as channel:
        yield pb_grpc.ClassifierStub(channel)


@dataclass
class Tally:
    """What became of many calls."""

    codes: Counter[str] = field(default_factory=Counter)
    details: Counter[str] = field(default_factory=Counter)
    ok_s: list[float] = field(default_factory=list)
    refused_s: list[float] = field(default_factory=list)
    hinted: int = 0
    """Refusals that said when to try again."""

    async def call(
        self,
        to: pb_grpc.ClassifierStub,
        request: pb.ClassifyRequest,
        *,
        timeout_s: float | None = None,
        check: Callable[[pb.ClassifyResponse], None] = lambda _: None,
    ) -> None:
        """Make one call and count it."""
        start_s = time.monotonic()
        try:
            answer = await to.Classify(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            self.codes[error.code().name] += 1
            self.details[f"{error.code().name}: {(error.details() or '')[:100]}"] += 1
            if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                self.refused_s.append(time.monotonic() - start_s)
                keys = dict(error.trailing_metadata() or ())
                self.hinted += "grpc-status-details-bin" in keys
            return
        check(answer)
        self.codes["OK"] += 1
        self.ok_s.append(time.monotonic() - start_s)

    @property
    def failed(self) -> int:
        """Return how many calls were not answered."""
        return sum(self.codes.values()) - self.codes["OK"]


def percentile(values: Sequence[float], part: float) -> float:
    """Return a percentile, or NaN of nothing."""
    return float(np.percentile(values, 100 * part)) if values else float("nan")


async def closed_loop(
    work: Callable[[random.Random], "asyncio.Future[None]"], callers: int, until: asyncio.Event
) -> None:
    """Keep `callers` calls in flight until told to stop."""

    async def again(seed: int) -> None:
        rng = random.Random(seed)
        while not until.is_set():
            await work(rng)

    await asyncio.gather(*(again(seed) for seed in range(callers)))
