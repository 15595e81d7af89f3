"""One world: a seed becomes a server, its callers, and what befalls them.

    seed ─► settings, rates ─► real Server on a Machine ─► callers, trouble ─► drain ─► rules

The server is the real one, from the interceptor down; what stands in for its surroundings is in
`parts.py`, `calls.py` and `machine.py`.
"""

import asyncio
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import grpc

from service.api.auth import Caller
from service.config import MAX_IMAGES_PER_CALL, ServerConfig
from service.pb import classifier_pb2 as pb
from service.server.server import Server
from tests.service.simulation import rules
from tests.service.simulation.calls import Call, Port, Request
from tests.service.simulation.machine import Machine
from tests.service.simulation.parts import Photo, Repository
from tests.service.simulation.patching import patched
from tests.service.simulation.trouble import trouble

_END_S = 1800.0
"""A world that lasts longer hangs."""


class World:
    """Everything that one seed determines.

    Attributes:
        calls: Calls, and requests of streams, that have begun.
        counts: Code → calls that ended with it.
        served: Model → when which version began to serve.
        unloaded_s: When a caller unloaded a model last.
    """

    def __init__(self, seed: int, *, calls: int) -> None:
        draw = self.draw = Random(seed)
        self.num_calls = calls
        self.calls = 0
        self.counts: dict[grpc.StatusCode, int] = {}
        self.open: dict[Call, None] = {}
        self.num_photos = 0
        self.held = 0
        self.slow_reader_s = draw.choice((0, 0, 0, 0.01))
        self.unloaded_s = -math.inf
        self.refused = [0, 0]
        self.predicted = 0
        self.moments = 0
        self.draining = False
        self.all_left = asyncio.Event()
        self.repository = Repository({"food": 1})
        if draw.random() < 0.3:
            self.repository.there["drinks"] = 1
        # How long things take, in seconds.
        self.on_cuda = draw.random() < 0.2
        self.image_s = 10 ** draw.uniform(-4, -1)
        self.run_s = self.image_s * draw.choice((0, 1, 4))
        self.decode_s = self.image_s * draw.choice((0.1, 1, 3))
        self.machine = Machine(
            draw,
            turn_s=draw.choice((0.0, 0.0, 1e-5, 2e-4)),
            grain_s=draw.choice((0.0, 0.0, self.image_s, 5 * self.image_s)),
        )
        self.config = self._config()
        self.photo_bytes = draw.choice((3000, 10_000, 100_000))
        self.streams = draw.choice((0.03, 0.03, 0.3))
        self.machine.most_held = self.config.max_decode_bytes
        self.machine.held = []
        self.machine.raised_s = -math.inf
        per_s = self.config.runs / self.image_s
        self.gap_s = 1 / per_s / draw.choice((0.3, 0.7, 0.9, 1.2, 3.0))
        self.burst = draw.choice((0.0, 0.5, 0.9, 0.98))
        self.troubles = draw.random() < 0.7
        self.callers: list[Caller] = []

    def run(self) -> None:
        """Live through it.

        Raises:
            AssertionError: A rule is broken.
        """
        opened = lambda name, version, **_: self.repository.open(  # noqa: E731
            name, version, on_cuda=self.on_cuda, run_s=self.run_s, image_s=self.image_s
        )
        with patched(self._port, opened):
            self.callers = self._callers()
            self.server = Server(self.config)
            self.server.models.repository = self.repository
            if self.callers:
                self.server._tokens = self
            self.machine.rules = partial(rules.at_every_moment, self)
            self.machine.run(self._live(), until_s=_END_S)
            rules.at_the_end(self)

    # What the server asks of its callers' file.

    def identify(self, metadata: Any) -> Caller:
        return self.callers[int(metadata["caller"])]

    def reload(self) -> None:
        pass

    # What calls tell.

    def hold(self, change: int) -> None:
        self.held += change

    def ended(self, call: Call) -> None:
        """Check a call that has ended, and forget it."""
        rules.of_call(self, call)
        assert call.code is not None
        self.counts[call.code] = self.counts.get(call.code, 0) + 1
        del self.open[call]
        if not self.open:
            self.all_left.set()

    def serving(self, model: str, since_s: float) -> set[int]:
        """Return the versions of a model that have served at some time since then."""
        began = self.server.metrics.model_version.labels(model).history
        at = max((i for i, (_, when_s) in enumerate(began) if when_s < since_s), default=0)
        return {version for version, _ in began[at:]}

    def _port(self, config: Any, methods: Any, *, shares_port: bool) -> Port:
        self.port = Port(config, methods, shares_port=shares_port)
        return self.port

    def _config(self) -> ServerConfig:
        draw = self.draw
        return ServerConfig(
            repository=Path("models"), http_port=None, metrics_port=None, reflection="off",
            max_batch=draw.choice((1, 4, 8, 32)),
            max_delay_ms=draw.choice((0.0, 5.0, 25.0)),
            queue_size=draw.choice((64, 80, 128, 512)),
            runs=draw.choice((1, 2, 3)),
            decode_threads=draw.choice((1, 2, 4)),
            keep_versions=draw.choice((1, 1, 2)),
            max_message_bytes=2**20,
            max_bytes_in_flight=draw.choice((2**19, 2**20, 2**22)),
            max_decode_bytes=draw.choice((1000, 4000)),
            max_streams=draw.choice((2, 8)),
            poll_interval_s=0.5,
            drain_s=draw.choice((0.01, 5.0, 100.0)),
        )  # fmt: skip

    def _callers(self) -> list[Caller]:
        """Return the callers that the tokens file lists; none: everybody may call."""
        if self.draw.random() < 0.8:
            return []
        per_s = self.config.runs / self.image_s
        return [Caller("a"), Caller("b", images_per_s=per_s / 4), Caller("c", images_per_s=1)]

    async def _live(self) -> None:
        self.all_left = asyncio.Event()
        await self.server.start()
        troubling = asyncio.create_task(trouble(self))
        for call in self._arrivals():
            if call is None:
                await asyncio.sleep(self.draw.expovariate(1) * self.gap_s)
                continue
            self.begin(call)
        if self.draw.random() < 0.7:
            await self._all_left()
            troubling.cancel()
            await rules.when_idle(self)
        troubling.cancel()
        self.draining = True
        await self.server.drain()
        await self.server.stop()
        await self._all_left()
        await asyncio.sleep(60)  # threads that decoded for callers who left
        await asyncio.gather(troubling, return_exceptions=True)

    def begin(self, call: Call) -> None:
        self.calls += max(len(call.requests), 1)
        self.open[call] = None
        self.all_left.clear()
        self.port.begin(call)

    async def _all_left(self) -> None:
        if self.open:
            await self.all_left.wait()

    def _arrivals(self) -> Iterator[Call | None]:
        """Yield the calls; None where time passes between them."""
        left = self.num_calls
        random = self.draw.random
        while left > 0:
            if random() >= self.burst:
                # After a burst, as long as it took to make it up.
                for _ in range(1 if not self.burst else int(random() * 2 / (1 - self.burst)) + 1):
                    yield None
            call = self._call()
            left -= len(call.requests)
            yield call

    def _call(self) -> Call:
        draw, now = self.draw, self.machine.now
        random = draw.random
        kind = random()
        over = (
            "grpc" if kind < 0.75 else "http" if kind < 0.87 else "infer" if kind < 0.92
            else "pixels"
        )  # fmt: skip
        if random() < self.streams:
            over = "stream"
        num = int(random() * 12) if over == "stream" else 1
        requests = [self._request(over) for _ in range(num)]
        gaps_s = [0.0] * num
        if random() < 0.1:
            for at in range(num):
                gaps_s[at] = random() * 0.1
            if num and random() < 0.05:
                gaps_s[-1] = math.inf
        deadline_s = leaves_s = math.inf
        if (chance := random()) < 0.4:
            deadline_s = now + self.image_s * 10 ** (random() * 4)
        elif chance < 0.5 or math.inf in gaps_s:
            leaves_s = now + self.image_s * 10 ** (random() * 3)
        metadata: tuple[tuple[str, str], ...] = (("peer", str(int(random() * 4))),)
        if self.callers:
            metadata += (("caller", str(int(random() * len(self.callers)))),)
        return Call(self, over, requests, gaps_s, deadline_s, leaves_s, metadata)

    def _request(self, over: str) -> Request:
        random = self.draw.random
        kind = random()
        count = 1 if kind < 0.9 else int(random() * 8) + 1 if kind < 0.997 else MAX_IMAGES_PER_CALL
        count = min(count, self.config.max_message_bytes // self.photo_bytes // 3)
        images = [self._photo(over) for _ in range(count)]
        priority = pb.PRIORITY_UNSPECIFIED
        if (kind := random()) < 0.15:
            priority = pb.PRIORITY_BULK if kind < 0.1 else pb.PRIORITY_INTERACTIVE
        model = "food"
        if "drinks" in self.repository.there and random() < 0.3:
            model = "drinks"
        version = 0 if random() < 0.97 else self.repository.there[model] - int(random() * 2)
        return Request(images, model, max(version, 0), priority)

    def _photo(self, over: str) -> Photo:
        random = self.draw.random
        photo = Photo()
        self.num_photos += 1
        photo.number = self.num_photos
        photo.size = self.photo_bytes
        if over == "pixels":
            photo.size = 3
            return photo
        photo.seconds = self.decode_s * (0.5 + random())
        if (kind := random()) < 0.7:
            pass
        elif kind < 0.75:
            photo.fault = "raises" if kind > 0.745 else "bad"
            photo.small = kind > 0.73
        elif kind < 0.9:
            photo.small, photo.size = False, 3 * self.photo_bytes
        else:
            # Some take more than there is.
            photo.memory = int(self.config.max_decode_bytes * (1.05 * random() + 0.01))
            photo.small = kind > 0.95
            photo.seconds *= 3
        return photo
