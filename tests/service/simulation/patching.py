"""Puts the machine's clock and threads, and the parts, where the service looks for real ones."""

import asyncio
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import service.server.server
from service.batching import batcher, decoder
from service.models import loading, pool
from service.pixels import budget
from service.server import grpc_port
from tests.service.simulation import machine, parts, threads

_CLOCKS = ("monotonic", "perf_counter")


def _now() -> float:
    return machine.Machine.current.now


async def _nothing() -> None:
    await asyncio.Event().wait()


@contextmanager
def patched(new_server: Callable[..., Any], opened: Callable[..., Any]) -> Iterator[None]:
    """Have the service run on the current machine until the block ends.

    Args:
        new_server: Instead of `grpc_port.new_server`.
        opened: Instead of `loading._open`.
    """
    threading = SimpleNamespace(Condition=threads.Condition, Thread=threads.Thread)
    swapped = [
        (batcher, "ThreadPoolExecutor", threads.Threads),
        (batcher, "small", parts.small),
        (decoder, "ThreadPoolExecutor", threads.Threads),
        (decoder, "preprocess", parts.preprocess),
        (budget, "threading", threading),
        (loading, "threading", threading),
        (loading, "_open", opened),
        (pool, "trim_heaps", lambda: None),
        (grpc_port, "new_server", new_server),
        (grpc_port, "bind", lambda *_: 1),
        (service.server.server, "Metrics", parts.Metrics),
        (service.server.server, "trim_regularly", _nothing),
    ]
    swapped += [
        (module, clock, _now)
        for name, module in list(sys.modules.items())
        if name.startswith("service.")
        for clock in _CLOCKS
        if hasattr(module, clock)
    ]
    before = [(where, name, getattr(where, name)) for where, name, _ in swapped]
    for where, name, what in swapped:
        setattr(where, name, what)
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        for where, name, what in before:
            setattr(where, name, what)
