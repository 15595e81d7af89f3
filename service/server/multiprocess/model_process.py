"""The process that holds the models, and computes for front ends in processes of their own.

    callers ─► SO_REUSEPORT ─┬─ front end: receive, check, decode ─┐ shared memory
                             └─ front end: receive, check, decode ─┴─► this process: batch, run

Python and JPEG decoding are spread over cores, and every run has the photos of all front ends. What
a server owes holds for the whole: health, drain, swaps, limits (each front end gets its part of the
places; quotas are kept here) and metrics (added up here). A front end that dies takes its calls in
flight with it, and is replaced; if that does not help, the process ends with 70.
"""

import asyncio
import itertools
import logging
import socket
import weakref
from collections import deque
from contextlib import suppress
from dataclasses import asdict, replace
from time import monotonic
from typing import Any

from service.config import ServerConfig, num_cores
from service.errors import ServiceError, UnavailableError
from service.models.instance import ModelInstance, Statistics
from service.observability.metrics import SummedMetrics, exposed
from service.server.multiprocess.channel import Kind
from service.server.multiprocess.connection import Child
from service.server.server import Server
from service.server.watchdog import Watchdog

_TELL_S = 0.02
"""How often it is looked whether front ends must be told something."""

_MOST_ENDS = 5
_WITHIN_S = 60.0
"""So many front ends that die within that time are more than bad luck."""

_ABORT_S = 1.0

logger = logging.getLogger(__name__)


class Device(Server):
    """The models, and the front ends before them."""

    def __init__(self, config: ServerConfig) -> None:
        super().__init__(config)
        self.total = SummedMetrics(self.metrics.registry)
        self.statistics: dict[int, dict[int, dict[str, Any]]] = {}
        """Version's number → front end's number → its statistics."""
        self._front_ends: dict[int, Child] = {}
        self._ends: deque[float] = deque(maxlen=_MOST_ENDS)
        self._counting = itertools.count()
        self._numbers: weakref.WeakKeyDictionary[ModelInstance, int] = weakref.WeakKeyDictionary()
        self._reserved: socket.socket | None = None

    async def start(self) -> None:
        """Start as a server does; once it serves, every front end does."""
        await super().start()
        if not self._health.serving:
            return
        # Whoever is told that it serves may call at once.
        for front_end in list(self._front_ends.values()):
            front_end.told(self)
            heard = asyncio.create_task(front_end.serves.wait())
            ends = {heard, front_end.serving} if front_end.serving else {heard}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            heard.cancel()

    async def listen(self) -> None:
        """Start the front ends, which answer with health NOT_SERVING."""
        config = self.config
        self.watchdog = Watchdog(config, self.metrics, self._update_health)
        self._reserved = self._closers.enter_context(_reserve(config.host, config.port))
        self.port = self._reserved.getsockname()[1]
        if config.http_port is not None:
            reserved = self._closers.enter_context(
                _reserve(config.host, config.http_port, "--http-port")
            )
            self.http_port = reserved.getsockname()[1]
        if config.metrics_port is not None:
            where = config.metrics_host or config.host
            self.metrics_port = self._closers.enter_context(
                exposed(self.total, where, config.metrics_port)
            )
        self._closers.push_async_callback(self.models.close)
        self._closers.push_async_callback(self._stop_front_ends)
        await asyncio.gather(*(self._start() for _ in range(config.workers)))
        telling = asyncio.create_task(self._tell())
        self._closers.callback(telling.cancel)

    def number(self, instance: ModelInstance) -> int:
        """Return the number by which front ends know a version."""
        if instance not in self._numbers:
            self._numbers[instance] = next(self._counting)
        return self._numbers[instance]

    async def ask(self, what: str, arguments: list[Any]) -> Any:
        """Do what a front end asks for.

        Raises:
            ServiceError: It cannot be done.
        """
        if what == "take":
            return self._tokens.take(*arguments)
        if what == "statistics":
            return self._sum(*arguments)
        await (self.models.load_model if what == "load" else self.models.unload_model)(*arguments)
        for front_end in self._front_ends.values():
            front_end.told(self)  # whoever calls next finds it so
        return None

    def state(self) -> tuple[object, ...]:
        """Return what tells whether front ends must be told anything."""
        models = self.models
        return (
            self._health.serving,
            tuple(models.refusals.items()),
            tuple(models.unloaded),
            tuple((instance, instance.fault) for instance in models.loaded),
        )

    def described(self) -> dict[str, Any]:
        """Return what front ends are told."""
        return {
            "serving": self._health.serving,
            "refused": self.models.refusals,
            "unloaded": sorted(self.models.unloaded),
            "loaded": [
                {
                    "number": self.number(instance),
                    "name": instance.name,
                    "version": instance.version,
                    "provider": instance.model.provider,
                    "properties": instance.model.properties,
                    "fault": instance.fault,
                    "workers": instance.batcher.workers,
                    "pace_s": instance.batcher.seconds_per_image,
                }
                for instance in self.models.loaded
            ],
        }

    def _sum(self, version: int) -> tuple[dict[str, Any], int]:
        total, runs = Statistics(), 0
        for told in self.statistics.get(version, {}).values():
            total.add(Statistics(**told))
        for instance in self.models.loaded:
            if self.number(instance) == version:
                runs = instance.batcher.runs.count
        return asdict(total), runs

    async def _tell(self) -> None:
        while True:
            for front_end in self._front_ends.values():
                front_end.told(self)
            await asyncio.sleep(_TELL_S)

    async def _start(self) -> None:
        """Start a front end, and wait until it listens.

        Raises:
            UnavailableError: It ends instead; its log says why.
        """
        config, parts = self.config, self.config.workers
        mine = replace(
            config,
            port=self.port,
            http_port=self.http_port,
            metrics_port=None,
            queue_size=max(-(-config.queue_size // parts), 64),
            max_bytes_in_flight=max(config.max_bytes_in_flight // parts, 2**16),
            max_streams=-(-config.max_streams // parts),
            decode_threads=config.decode_threads or max(num_cores() // parts, 1),
        )
        front_end = await Child.start(mine)
        number = next(self._counting)
        self._front_ends[number] = front_end
        front_end.serving = asyncio.create_task(self._keep(number, front_end))
        front_end.told(self)
        listens = asyncio.create_task(front_end.listens.wait())
        await asyncio.wait({listens, front_end.serving}, return_when=asyncio.FIRST_COMPLETED)
        if not listens.done():
            listens.cancel()
            raise UnavailableError(
                f"cannot listen on {config.host}:{self.port}: a front end ended; see above"
            )

    async def _keep(self, number: int, front_end: Child) -> None:
        """Serve a front end until it ends; start another one if it should not have ended."""
        code = await front_end.serve(self, number)
        del self._front_ends[number]
        self.total.forget(number)
        if self._stopping.is_set() or not front_end.listens.is_set():
            return
        logger.error("a front end ended with %d, and its calls with it; another one starts", code)
        self._ends.append(monotonic())
        if len(self._ends) == _MOST_ENDS and self._ends[-1] - self._ends[0] < _WITHIN_S:
            self.watchdog.end(f"{_MOST_ENDS} front ends ended within {_WITHIN_S:g} s")
            return
        try:
            await self._start()
        except ServiceError as error:
            self.watchdog.end(str(error))

    async def _stop_front_ends(self) -> None:
        """Let them end their calls, `grace_s` at most."""
        left = {each.serving for each in self._front_ends.values() if each.serving}
        ends_s = monotonic() + self.grace_s + _ABORT_S
        for front_end in self._front_ends.values():
            front_end.link.tell(Kind.STOP, self.grace_s)
        aborting = asyncio.ensure_future(self._aborting.wait())
        while left and monotonic() < ends_s:
            done, _ = await asyncio.wait(
                {aborting, *left}, timeout=ends_s - monotonic(),
                return_when=asyncio.FIRST_COMPLETED,
            )  # fmt: skip
            if aborting in done:
                ends_s = min(ends_s, monotonic() + _ABORT_S)
                for front_end in self._front_ends.values():
                    front_end.link.tell(Kind.STOP, 0)
                await asyncio.wait(left, timeout=_ABORT_S)
            left -= {task for task in left if task.done()}
        aborting.cancel()
        for front_end in list(self._front_ends.values()):
            with suppress(ProcessLookupError):
                front_end.process.kill()
        if left:
            await asyncio.wait(left)


def _reserve(host: str, port: int, flag: str = "--port") -> socket.socket:
    """Keep a port for the front ends, without listening on it.

    Raises:
        UnavailableError: Another server has it.
    """
    name = host.strip("[]")
    family, kind, _, _, address = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)[0]
    found = socket.socket(family, kind)
    try:
        with socket.socket(family, kind) as alone:
            # One that shares the port would be let in beside a stranger that does, too.
            alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            alone.bind(address)
            address = alone.getsockname()
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        found.bind(address)
    except OSError as error:
        found.close()
        raise UnavailableError(
            f"cannot listen on {host}:{port}: is another server there? Choose another with {flag}"
        ) from error
    return found
