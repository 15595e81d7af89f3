"""The process around a server: its event loop, its signals, and the code that it ends with."""

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

from service.config import ServerConfig
from service.errors import ServiceError
from service.memory import limit_heaps
from service.server.server import Server
from service.server.watchdog import EXIT_FAULT, watch_event_loop
from terminal import say

_ABORT_S = 1.0

logger = logging.getLogger(__name__)


def run(
    config: ServerConfig,
    *,
    ready: Callable[[str], None] = say,
    parent: socket.socket | None = None,
) -> int:
    """Serve until SIGTERM or SIGINT, drain, and return the exit code.

    Args:
        config: What to serve, and where.
        ready: Called with one line for people, once health is SERVING.
        parent: Where this is one of several replicas, which share the port. The parent sends the
            numbers of signals, a byte each; its end counts as SIGTERM, and signals to this process
            itself are ignored. It is told that line, and the port of `/metrics`, in a line of JSON.

    Returns:
        0 after a signal, 70 after a fault. A process that cannot end in order, since a run hangs
        or an error was not expected, ends within this function.

    Raises:
        ServiceError: It cannot start.
    """
    limit_heaps()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        try:
            code, ended = runner.run(_serve(config, ready, parent))
        except ServiceError:
            raise
        except Exception:
            logger.exception("unexpected error: the process ends")
            code, ended = EXIT_FAULT, False
        if not ended:
            # A thread that computes, or hangs, would be waited for, with the ports still open.
            logging.shutdown()
            os._exit(code)
    return code


async def _serve(
    config: ServerConfig, ready: Callable[[str], None], parent: socket.socket | None
) -> tuple[int, bool]:
    """Serve; return the exit code, and whether everything has ended in order."""
    signals = _signals(parent)
    guarding = asyncio.create_task(watch_event_loop(config.run_timeout_s))
    server = Server(config, shares_port=parent is not None)
    started = asyncio.create_task(server.start())
    told = asyncio.create_task(signals.get())
    try:
        # A signal while a slow model is being loaded is heard at once.
        begins: set[asyncio.Future[Any]] = {started, told}
        await asyncio.wait(begins, return_when=asyncio.FIRST_COMPLETED)
        if not started.done():
            started.cancel()
            await asyncio.gather(started, return_exceptions=True)
            return 0, True
        await started
        says = f"serving {_served(server)} at {config.host}:{server.port}"
        if parent is None:
            ready(says)
        else:
            line = {"says": says, "metrics_port": server.metrics_port}
            with suppress(ConnectionError):  # it is gone, which arrives as SIGTERM
                parent.sendall(json.dumps(line).encode() + b"\n")
        ends: set[asyncio.Future[Any]] = {told, server.watchdog.fatal}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if server.watchdog.fatal.done():
            server.abort_calls()
            await server.drain()
            await asyncio.wait({asyncio.ensure_future(server.stop())}, timeout=_ABORT_S)
            return EXIT_FAULT, False
        return 0, await _drain(server, signals, delay=told.result() == signal.SIGTERM)
    finally:
        guarding.cancel()
        told.cancel()


async def _drain(server: Server, signals: "asyncio.Queue[int]", *, delay: bool) -> bool:
    """Drain; return whether everything has ended, which a run that hangs, or a hurry, prevents."""
    config = server.config
    logger.info("draining, at most %g s", config.drain_delay_s * delay + config.drain_s)
    again = asyncio.create_task(signals.get())
    again.add_done_callback(lambda task: None if task.cancelled() else server.abort_calls())
    await server.drain()
    # Somebody at a terminal has no balancer that must be told.
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
    """Return where SIGTERM and SIGINT arrive: those of this process, or those its parent tells."""
    signals: asyncio.Queue[int] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        # What a terminal or systemd sends to all processes at once would arrive twice.
        heed = signals.put_nowait if parent is None else lambda _: None
        loop.add_signal_handler(number, heed, number)

    def hear(parent: socket.socket) -> None:
        try:
            told = parent.recv(1)
        except ConnectionError:
            told = b""
        if not told:
            loop.remove_reader(parent)
        signals.put_nowait(told[0] if told else signal.SIGTERM)

    if parent is not None:
        loop.add_reader(parent, hear, parent)
    return signals


def _served(server: Server) -> str:
    return ", ".join(
        f"{instance.name} version {instance.version} on {instance.model.provider}"
        for instance in server.models.instances
    )


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes event loops: uvloop where it is installed."""
    if sys.platform == "win32":
        return None
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
