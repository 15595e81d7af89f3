"""The process around a server: its event loop, its signals, and its exit code."""

import asyncio
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from service.addresses import with_port
from service.config import ServerConfig
from service.errors import ServiceError
from service.memory import limit_heaps
from service.server.server import Server
from service.server.watchdog import EXIT_FAULT, watch_event_loop
from terminal import say

_ABORT_S = 1.0
"""How long calls that are cut off may take to end."""

_SWITCH_S = 0.001
"""How long a thread keeps the interpreter's lock while others want it. A call takes the lock some
times over, and each decode thread may be in Python: at the usual 5 ms, 64 images that are made to
be refused slowly held up a health check for 90 ms."""

logger = logging.getLogger(__name__)


def run(
    config: ServerConfig,
    *,
    ready: Callable[[str], None] = say,
    parent: socket.socket | None = None,
) -> int:
    """Serve until SIGTERM, SIGINT or SIGHUP, drain, and return the exit code.

    Args:
        config: What to serve, and where.
        ready: Called with one line for people, once health is SERVING.
        parent: Socket to the parent, if this is one of several replicas that share the port. The
            parent sends the numbers of signals, a byte each, and its end counts as SIGTERM; signals
            to this process are ignored. Once health is SERVING, the parent gets a line of JSON
            with that line for people and the port of `/metrics`.

    Returns:
        0 after a signal, 70 after a fault. If something hangs after the drain, or an unexpected
        error came, this function ends the process itself.

    Raises:
        ServiceError: It cannot start.
    """
    limit_heaps()
    sys.setswitchinterval(_SWITCH_S)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        try:
            code, ended = runner.run(_serve(config, ready, parent))
        except ServiceError:
            raise
        except Exception:
            logger.exception("unexpected error: the process ends")
            code, ended = EXIT_FAULT, False
        if not ended:
            # A normal exit would wait for threads that still compute, with the ports open.
            logging.shutdown()
            os._exit(code)
    return code


async def _serve(
    config: ServerConfig, ready: Callable[[str], None], parent: socket.socket | None
) -> tuple[int, bool]:
    """Serve; return the exit code, and whether everything has ended."""
    signals = _signals(parent)
    watching = asyncio.create_task(watch_event_loop(config.run_timeout_s))
    server = Server(config, shares_port=parent is not None)
    started = asyncio.create_task(server.start())
    signalled = asyncio.create_task(signals.get())
    try:
        # A signal must also stop a server that is still loading a slow model.
        either: set[asyncio.Future[Any]] = {started, signalled}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not started.done():
            started.cancel()
            await asyncio.gather(started, return_exceptions=True)
            return 0, True
        await started
        says = f"serving {_served(server)} at {with_port(config.host, server.port)}"
        if parent is None:
            ready(says)
        else:
            line = {"says": says, "metrics_port": server.metrics_port}
            with suppress(ConnectionError):  # the parent has ended, which counts as SIGTERM
                parent.sendall(json.dumps(line).encode() + b"\n")
        either = {signalled, server.watchdog.fatal}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if server.watchdog.fatal.done():
            server.abort_calls()
            await server.drain()
            await asyncio.wait({asyncio.ensure_future(server.stop())}, timeout=_ABORT_S)
            return EXIT_FAULT, False
        return 0, await _drain(server, signals, delay=signalled.result() == signal.SIGTERM)
    finally:
        watching.cancel()
        signalled.cancel()


async def _drain(server: Server, signals: "asyncio.Queue[int]", *, delay: bool) -> bool:
    """Drain; return whether everything ended in time, without a second signal."""
    config = server.config
    logger.info("draining, at most %g s", config.drain_delay_s * delay + config.drain_s)
    again = asyncio.create_task(signals.get())
    again.add_done_callback(lambda task: None if task.cancelled() else server.abort_calls())
    await server.drain()
    # After Ctrl-C at a terminal there is no load balancer to wait for.
    if delay:
        await asyncio.wait({again}, timeout=config.drain_delay_s)
    stopping = asyncio.create_task(server.stop())
    await asyncio.wait(
        {stopping, again}, timeout=config.drain_s + _ABORT_S, return_when=asyncio.FIRST_COMPLETED
    )
    await asyncio.wait({stopping}, timeout=_ABORT_S)
    again.cancel()
    logger.info("drained" if stopping.done() else "cut off what was left")
    return stopping.done()


def _signals(parent: socket.socket | None) -> "asyncio.Queue[int]":
    """Return a queue of the signals of this process, or of those that its parent sends."""
    signals: asyncio.Queue[int] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in signals_heeded():
        # A terminal or systemd signals all processes, so a replica would be signalled twice.
        heed = signals.put_nowait if parent is None else lambda _: None
        loop.add_signal_handler(number, heed, number)

    def receive(parent: socket.socket) -> None:
        try:
            received = parent.recv(1)
        except ConnectionError:
            received = b""
        if not received:
            loop.remove_reader(parent)
        signals.put_nowait(received[0] if received else signal.SIGTERM)

    if parent is not None:
        loop.add_reader(parent, receive, parent)
    return signals


def signals_heeded() -> list[signal.Signals]:
    """Return the signals that drain, and have this process ignore SIGUSR1 and SIGUSR2.

    A terminal that closes sends SIGHUP, which counts unless nohup ignores it. SIGUSR1 and SIGUSR2
    would end the process by default, and have no meaning here: files are followed without a signal.
    """
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.SIG_IGN)
    heeded = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        heeded.append(signal.SIGHUP)
    return heeded


def _served(server: Server) -> str:
    return ", ".join(
        f"{instance.name} version {instance.version} on {instance.model.provider}"
        for instance in server.models.instances
    )


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes event loops: uvloop if it is installed, else None for asyncio's own."""
    if sys.platform == "win32":
        return None
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
