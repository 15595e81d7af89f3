"""One front end as the process that holds the models sees it: its messages, its pixels, its end."""

import asyncio
import json
import os
import socket
import struct
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from service.batching.priority_queue import Priority
from service.config import ServerConfig
from service.models.instance import ModelInstance
from service.observability.tracing import Stages
from service.server.multiprocess.channel import Kind, Link, Slots, error_of
from service.server.multiprocess.remote_model import ROWS, RUN

if TYPE_CHECKING:
    from service.server.multiprocess.model_process import Device


class Child:
    """One front end as its models' process sees it."""

    def __init__(self, process: asyncio.subprocess.Process, link: Link, slots: Slots) -> None:
        self.process = process
        self.link = link
        self.listens = asyncio.Event()
        self.serves = asyncio.Event()
        self.serving: asyncio.Task[None] | None = None
        self._slots = slots
        self._held: dict[int, tuple[ModelInstance, ExitStack]] = {}
        self._works: dict[int, asyncio.Task[None]] = {}
        self._seen: object = None

    @classmethod
    async def start(cls, config: ServerConfig) -> "Child":
        """Start its process, and tell it its settings."""
        ours, theirs = socket.socketpair()
        memory = Slots.make(config.queue_size)
        here = str(Path(__file__).parents[3])
        paths = os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "service.server.multiprocess.front_end"),
                *(str(theirs.fileno()), str(memory)),
                pass_fds=(theirs.fileno(), memory),
                stdin=asyncio.subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": paths},
                # What a terminal sends is for the models' process.
                start_new_session=True,
            )
            slots = Slots(memory, config.queue_size)
        finally:
            theirs.close()
            os.close(memory)
        link = await Link.over(ours)
        link.send(Kind.CONFIG, config.to_json().encode())
        return cls(process, link, slots)

    def told(self, device: "Device") -> None:
        """Tell it what is loaded, if that has changed, and hold that until it is released."""
        state = device.state()
        if state == self._seen:
            return
        self._seen = state
        for instance in device.models.loaded:
            number = device.number(instance)
            if number not in self._held:
                holding = ExitStack()
                holding.enter_context(instance.batcher.keep_open())
                self._held[number] = instance, holding
        self.link.tell(Kind.STATE, device.described())

    async def serve(self, device: "Device", me: int) -> int:
        """Do what it asks for until it ends; return its exit code."""
        try:
            while True:
                kind, body = await self.link.receive()
                if kind is Kind.RUN:
                    number = RUN.unpack_from(body)[0]
                    self._works[number] = asyncio.create_task(self._run(number, body))
                elif kind is Kind.CANCEL:
                    (number,) = struct.unpack("<Q", body)
                    if work := self._works.get(number):
                        work.cancel()
                elif kind is Kind.ASK:
                    asked = json.loads(body)
                    self._works[asked["call"]] = asyncio.create_task(self._ask(device, asked))
                elif kind is Kind.RELEASED:
                    (number,) = struct.unpack("<I", body)
                    self._held.pop(number)[1].close()
                elif kind is Kind.MEASURES:
                    told = json.loads(body)
                    device.total.update(me, told["samples"])
                    for version, statistics in told["statistics"].items():
                        device.statistics.setdefault(int(version), {})[me] = statistics
                elif kind is Kind.FOLLOWED:
                    (self.serves.set if body[0] else self.serves.clear)()
                else:
                    self.listens.set()
        except EOFError:
            pass
        for work in list(self._works.values()):
            work.cancel()
        for _, holding in self._held.values():
            holding.close()
        self._held.clear()
        await self.link.close()
        return await self.process.wait()

    async def _run(self, number: int, body: bytes) -> None:
        try:
            _, version, deadline_s, bulk, count = RUN.unpack_from(body)
            instance = self._held[version][0]
            side = instance.model.metadata.image_size
            places = struct.unpack_from(f"<{count}I", body, RUN.size)
            stages: Stages = {}
            rows_NK = np.stack(
                await instance.batcher.submit(  # type: ignore[arg-type]  # of pixels, no errors
                    [self._slots.view(place, side) for place in places],
                    deadline_s=deadline_s,
                    priority=Priority.BULK if bulk else Priority.INTERACTIVE,
                    stages=stages,
                )
            )
            head = ROWS.pack(
                number, *rows_NK.shape, stages["queue"][0], stages["queue"][1], stages["compute"][1]
            )
            self.link.send(Kind.ROWS, head + rows_NK.tobytes())
        except (Exception, asyncio.CancelledError) as error:
            # Also of what was given up: its places are free then.
            self.link.tell(Kind.FAILED, {"call": number, **error_of(error)})
        finally:
            self._works.pop(number, None)

    async def _ask(self, device: "Device", asked: dict[str, Any]) -> None:
        number = asked["call"]
        try:
            value = await device.ask(asked["what"], asked["arguments"])
            self.link.tell(Kind.ANSWER, {"call": number, "value": value})
        except (Exception, asyncio.CancelledError) as error:
            self.link.tell(Kind.FAILED, {"call": number, **error_of(error)})
        finally:
            self._works.pop(number, None)
