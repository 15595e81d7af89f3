"""For every room's tests: a real S3 server, a network to it that fails, and a list of skips."""

import asyncio
import gc
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.once import exporting_once, made_once, shared
from tests.paths import ROOT

# Read when torch is imported, here and in every process that a test starts. Files are tested
# several at a time, and threads that spin for a core that another one has cost most of the time.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Many tests start a process that imports torch: 3 s of CPU with bytecode, 8 s without. Who wants
# none beside the sources has it in build/.
if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
    os.environ.setdefault("PYTHONPYCACHEPREFIX", str(ROOT / "build" / "bytecode"))
    sys.dont_write_bytecode, sys.pycache_prefix = False, os.environ["PYTHONPYCACHEPREFIX"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --listed-skips."""
    parser.addoption(
        "--listed-skips",
        type=Path,
        metavar="FILE",
        help="Fail if a test is skipped for a reason that no regular expression in FILE matches.",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Hear SIGHUP, also under nohup; watch for skips where a list of them was given."""
    # A process that a test starts would inherit that it is ignored.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    gc.disable()
    # The worker processes of pytest-xdist send what they skip to the first process.
    if (file := config.getoption("listed_skips")) and not hasattr(config, "workerinput"):
        config.pluginmanager.register(ListedSkips(file))


def pytest_collection_finish() -> None:
    """Look for garbage from now on, but never in what collecting has imported.

    Half a million objects would be searched again and again: a fifth of the time of collecting.
    """
    gc.freeze()
    gc.enable()


class ListedSkips:
    """Fails a test run in which a test was skipped for a reason that is not listed."""

    def __init__(self, file: Path) -> None:
        lines = file.read_text().splitlines()
        self._listed = re.compile("|".join(line for line in lines if line and line[0] != "#"))
        self._unlisted: dict[str, str] = {}
        """The reason → a test that was skipped for it."""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note why a test was skipped."""
        self._note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note why a whole file was skipped."""
        self._note(report)

    def _note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            why = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            if not self._listed.search(why):
                self._unlisted.setdefault(why, report.nodeid)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Name the skips that are not listed."""
        for why, test in self._unlisted.items():
            terminalreporter.write_line(f"not a listed skip: {why} (such as {test})", red=True)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail if there were any."""
        if self._unlisted and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def dishes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three drawn dishes: 48 pictures to train, 6 each to validate and to test."""

    def draw(folder: Path) -> None:
        from training.samples.sample import draw_photos

        draw_photos(folder / "photos", classes=3, per_class=20)

    return made_once(tmp_path_factory, "dishes", draw) / "photos"


@pytest.fixture(scope="session")
def dishes_cache(dishes: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The drawn dishes at 32 px; nobody changes it."""
    from training.data.prepare import prepare

    def build(folder: Path) -> None:
        prepare(dishes, 32, cache_root=folder / "cache")

    folder = made_once(tmp_path_factory, "dishes-32", build)
    return prepare(dishes, 32, cache_root=folder / "cache")


@pytest.fixture(scope="session")
def run_dir(dishes_cache: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of six epochs on the drawn dishes, with its predictions; nobody changes it."""

    def learn(folder: Path) -> None:
        from training.config import TrainConfig
        from training.loop.trainer import train

        config = TrainConfig(image_size=32, epochs=6, batch_size=16, threads=1)
        train(config, dishes_cache, folder / "runs" / "first", device="cpu")

    return made_once(tmp_path_factory, "run", learn) / "runs" / "first"


@pytest.fixture(scope="module")
def exports_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let torch export the same weights once, for tests of what becomes of the file."""
    with exporting_once(shared(tmp_path_factory)):
        yield


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Run moto's S3 server in a process of its own; give its port."""
    if shutil.which("moto_server") is None:
        pytest.skip("moto_server is not installed (make test-deploy)")
    pytest.importorskip("s3fs")
    from benchmarks.rig import free_port

    port = free_port()
    log = (tmp_path_factory.mktemp("moto") / "log").open("w")
    server = subprocess.Popen(
        ["moto_server", "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log
    )
    try:
        end_s = time.monotonic() + 60
        while subprocess.run(
            ["bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{port}"], stderr=subprocess.DEVNULL
        ).returncode:
            assert time.monotonic() < end_s
            time.sleep(0.1)
        yield port
    finally:
        server.kill()
        server.wait()
        log.close()


@pytest.fixture
def bucket(s3: int, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give a fresh bucket, as a file system of s3fs; the environment points to it."""
    from storage.bucket import file_system

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{s3}")
    there = file_system()
    if there.exists("bucket"):
        there.rm("bucket", recursive=True)
    there.mkdir("bucket")
    return there


class Network:
    """Lies between whoever uses it and the store: seeded, and as bad as it is told."""

    def __init__(self, to: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.to = to
        self.bad = 0.0
        self.hit = 0
        self._away = False
        self._open: set[asyncio.StreamWriter] = set()
        self._monkeypatch = monkeypatch
        self._rng = random.Random(1)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._wait(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]

    @contextmanager
    def used(self) -> Iterator[None]:
        """Send what connects meanwhile through here."""
        with self._monkeypatch.context() as patched:
            patched.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{self.port}")
            yield

    def go_away(self) -> None:
        """Let nothing through any more, on connections that are open neither."""
        self._away = True
        self._wait(self._cut_off())

    def come_back(self) -> None:
        """Let everything through."""
        self._away, self.bad = False, 0.0

    def close(self) -> None:
        """End what goes through here."""
        self._server.close()
        self._wait(self._cut_off())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _cut_off(self) -> None:
        for writer in self._open:
            writer.transport.abort()
        while self._open:
            await asyncio.sleep(0.01)

    def _wait(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        fate = self._rng.choice(("close", "refuse", "cut")) if self._rng.random() < self.bad else ""
        self.hit += bool(fate)
        with self._opened(writer):
            if fate == "close" or self._away:
                return
            if fate == "refuse":
                await reader.read(64)
                body = b"<Error><Code>SlowDown</Code></Error>"
                head = f"HTTP/1.1 503 Slow Down\r\nContent-Length: {len(body)}\r\n\r\n"
                writer.write(head.encode() + body)
                with suppress(OSError):
                    await writer.drain()
                return
            to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self.to)
            left = self._rng.randrange(100, 3000) if fate == "cut" else 2**40
            with self._opened(to_writer):
                up = asyncio.create_task(_copy(reader, to_writer, 2**40))
                await _copy(to_reader, writer, left)
                up.cancel()

    @contextmanager
    def _opened(self, writer: asyncio.StreamWriter) -> Iterator[None]:
        self._open.add(writer)
        with closing(writer):
            yield
        self._open.remove(writer)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, most: int) -> None:
    try:
        while most > 0 and (data := await reader.read(min(most, 65536))):
            writer.write(data)
            await writer.drain()
            most -= len(data)
    except OSError:
        return


@pytest.fixture
def network(bucket: Any, s3: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Network]:
    """Give a network to the store; it is good until `network.bad` says how often it fails."""
    network = Network(s3, monkeypatch)
    yield network
    network.close()
