"""`hansang serve --workers N`: N ordinary servers on one port, and the parent that supervises them.

    callers ─► SO_REUSEPORT ─┬─► replica: a whole server, with models of its own
                             └─► replica: another one
    parent: passes signals on, restarts replicas that ended, serves one `/metrics`

The system gives each connection to one of the replicas that listen. A replica listens once its
models are loaded, so every connection is answered. While one replica serves, others that end are
restarted, after longer and longer pauses. When none is left, the process ends, as a single server
would.
"""

import asyncio
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from time import monotonic

from service.config import MAX_IMAGES_PER_CALL, ServerConfig
from service.devices import part_of
from service.errors import UnavailableError
from service.observability.merged_metrics import MergedMetrics
from service.observability.metrics import Metrics, exposed
from service.pixels.budget import default_bytes
from service.server.process import signals_heeded
from terminal import say

_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 30.0
"""Pauses before a replica is restarted: twice as long each time."""

_STEADY_S = 60.0
"""After a replica ran for so long, its next pause is the first one again."""

_LATE_S = 5.0
"""A replica that has not ended so long after its drain is killed."""

logger = logging.getLogger(__name__)


def supervise(config: ServerConfig, *, ready: Callable[[str], None] = say) -> int:
    """Serve with `config.workers` replicas until SIGTERM or SIGINT; return the exit code.

    Args:
        config: What to serve, and where. `share` divides it among replicas.
        ready: Called with one line for people, once all replicas serve.

    Returns:
        0 after a signal; else the code of the replica that could not start, or that served last. If
        signal N ended a replica, its code is 128 + N.

    Raises:
        UnavailableError: A port cannot be opened.
    """
    return asyncio.run(_Parent(config, ready).run())


def share(config: ServerConfig) -> ServerConfig:
    """Return the settings of one replica, which gets its part of what bounds memory."""
    parts = config.workers
    return replace(
        config,
        metrics_host="127.0.0.1",
        metrics_port=None if config.metrics_port is None else 0,
        queue_size=max(-(-config.queue_size // parts), MAX_IMAGES_PER_CALL),
        max_bytes_in_flight=max(config.max_bytes_in_flight // parts, 2**16),
        max_decode_bytes=(config.max_decode_bytes or default_bytes()) // parts,
        max_streams=-(-config.max_streams // parts),
    )


class _Parent:
    """Supervises the replicas of one server. Belongs to one event loop."""

    def __init__(self, config: ServerConfig, ready: Callable[[str], None]) -> None:
        self._config = config
        self._ready = ready
        self._metrics = Metrics(gpus=config.device != "cpu")
        self._merged = MergedMetrics(self._metrics.registry)
        self._running: dict[int, tuple[asyncio.subprocess.Process, asyncio.StreamWriter]] = {}
        self._serving: set[int] = set()
        self._began = False
        self._stopping = asyncio.Event()
        self._code = 0

    async def run(self) -> int:
        """Supervise the replicas until all have ended; return the exit code."""
        config, loop = self._config, asyncio.get_running_loop()
        for number in signals_heeded():
            loop.add_signal_handler(number, self._stop, number)
        with ExitStack() as closers:

            def reserved(port: int, flag: str) -> int:
                found = closers.enter_context(_reserve(config.host, port, flag))
                return int(found.getsockname()[1])

            port, http_port = reserved(config.port, "--port"), config.http_port
            if http_port is not None:
                http_port = reserved(http_port, "--http-port")
            if config.metrics_port is not None:
                host = config.metrics_host or config.host
                closers.enter_context(exposed(self._merged.registry, host, config.metrics_port))
            closers.callback(self._kill)
            part = replace(share(config), port=port, http_port=http_port)
            parts = (
                replace(part, device=part_of(config.device, number))
                for number in range(config.workers)
            )
            await asyncio.gather(*(self._keep(*each) for each in enumerate(parts)))
        return self._code

    async def _keep(self, number: int, config: ServerConfig) -> None:
        """Run a replica, and restart it when it ends, until the server stops."""
        wait_s = _FIRST_WAIT_S
        while not self._stopping.is_set():
            start_s = monotonic()
            code = await self._serve(number, config)
            if self._stopping.is_set():
                self._code = max(self._code, code)
                return
            if not self._began or not self._serving:
                if self._began:  # one that could not start has said why
                    logger.critical("no replica is left: the last one ended with %d", code)
                self._code = code
                self._stop(signal.SIGINT)
                return
            if monotonic() - start_s > _STEADY_S:
                wait_s = _FIRST_WAIT_S
            logger.error(
                "a replica ended with %d, and its calls with it; another one starts in %g s",
                code, wait_s,
            )  # fmt: skip
            self._metrics.replica_restarts.inc()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), wait_s)
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)

    async def _serve(self, number: int, config: ServerConfig) -> int:
        """Run a replica once; return its exit code."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = await _start(theirs, config)
        reader, writer = await asyncio.open_connection(sock=ours)
        self._running[number] = process, writer
        if self._stopping.is_set():  # since before it could be serving
            writer.write(bytes([signal.SIGINT]))
        if line := await reader.readline():
            report = json.loads(line)
            if report["metrics_port"]:
                self._merged.add(number, report["metrics_port"])
            self._serving.add(number)
            self._update_ready(report["says"])
        code = await process.wait()
        del self._running[number]
        writer.close()
        self._serving.discard(number)
        self._merged.remove(number)
        self._update_ready()
        return code if code >= 0 else 128 - code

    def _update_ready(self, says: str = "") -> None:
        """Update whether all replicas serve, and say so the first time."""
        whole = len(self._serving) == self._config.workers
        self._metrics.ready.set(whole and not self._stopping.is_set())
        if whole and not self._began:
            self._began = True
            self._ready(says)

    def _stop(self, number: int) -> None:
        """Pass a signal on, and kill replicas that do not end in time."""
        if not self._stopping.is_set():
            most_s = self._config.drain_delay_s + self._config.drain_s + _LATE_S
            asyncio.get_running_loop().call_later(most_s, self._kill)
        self._stopping.set()
        self._metrics.ready.set(0)
        for _, writer in self._running.values():
            writer.write(bytes([number]))

    def _kill(self) -> None:
        for process, _ in self._running.values():
            with suppress(ProcessLookupError):
                process.kill()


async def _start(theirs: socket.socket, config: ServerConfig) -> asyncio.subprocess.Process:
    """Start a replica that has the other end of a socket."""
    here = str(Path(__file__).parents[2])
    paths = os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "service.server.replica"),
        *(str(theirs.fileno()), config.to_json()),
        pass_fds=[theirs.fileno()],
        stdin=asyncio.subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": paths},
    )


def _reserve(host: str, port: int, flag: str) -> socket.socket:
    """Reserve a port for the replicas, without listening on it.

    Raises:
        UnavailableError: It cannot be opened; the message says why.
    """
    if sys.platform != "linux":
        # Other systems do not spread connections over processes that share a port.
        raise UnavailableError("--workers needs Linux; start without it")
    found = None
    try:
        name = host.strip("[]")
        family, kind, _, _, address = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as alone:
            # SO_REUSEPORT would hide another program on the port that has set it, too.
            alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            alone.bind(address)
            address = alone.getsockname()
        found = socket.socket(family, kind)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        found.bind(address)
    except OSError as error:
        if found:
            found.close()
        raise UnavailableError(
            f"cannot listen on {host}:{port} ({error.strerror}): choose another with --host or"
            f" {flag}"
        ) from error
    return found
