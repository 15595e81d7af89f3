"""Between a front end and the process that holds the models: short messages, and shared pixels.

Messages go over a Unix socket, `<length><kind><body>`; bodies are JSON, save for those of every
call, which are structures. Pixels lie in memory that both have mapped: they are never copied to be
sent. The memory has no name, and is gone with the last of the two processes.

Shapes: S side, C channels.
"""

import asyncio
import json
import mmap
import os
import socket
import struct
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.config import MAX_SHARED_SIDE
from service.errors import (
    ConflictError,
    DeadlineError,
    InvalidArgumentError,
    ModelContractError,
    NotFoundError,
    OverloadedError,
    ServiceError,
    UnavailableError,
)

_PLACE = MAX_SHARED_SIDE * MAX_SHARED_SIDE * 3
_FRAME = struct.Struct("<IB")
_ERRORS = {
    kind.code.name: kind
    for kind in (
        ConflictError, DeadlineError, InvalidArgumentError, ModelContractError, NotFoundError,
        OverloadedError, UnavailableError,
    )
}  # fmt: skip


class Kind(IntEnum):
    """What a message is."""

    # From the models' process to a front end.
    CONFIG = 0
    STATE = 1
    ROWS = 2
    FAILED = 3
    ANSWER = 4
    STOP = 5
    # From a front end to the models' process.
    LISTENING = 10
    RUN = 11
    CANCEL = 12
    ASK = 13
    RELEASED = 14
    MEASURES = 15
    FOLLOWED = 16


class Link:
    """One end of the socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, sock: socket.socket) -> "Link":
        """Speak over a connected socket."""
        return cls(*await asyncio.open_unix_connection(sock=sock))

    def send(self, kind: Kind, body: bytes = b"") -> None:
        """Send a message. What may be admitted bounds what can pile up here."""
        self._writer.write(_FRAME.pack(len(body), kind) + body)

    def tell(self, kind: Kind, value: object) -> None:
        """Send a message of JSON."""
        self.send(kind, json.dumps(value).encode())

    async def receive(self) -> tuple[Kind, bytes]:
        """Return the next message.

        Raises:
            EOFError: The other end is gone.
        """
        try:
            length, kind = _FRAME.unpack(await self._reader.readexactly(_FRAME.size))
            return Kind(kind), await self._reader.readexactly(length)
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            raise EOFError from error

    async def close(self) -> None:
        """Let go of the socket, once what was sent is away."""
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()


class Slots:
    """Shared memory, cut into places for one image each."""

    def __init__(self, file: int, count: int) -> None:
        """Map it; the front end alone gives places out."""
        self._memory = mmap.mmap(file, count * _PLACE)
        self._free = deque(range(count))
        self._line = asyncio.Lock()
        self._freed = asyncio.Event()

    @staticmethod
    def make(count: int) -> int:
        """Return the file of a new memory with so many places."""
        file = os.memfd_create("hansang-pixels")
        os.ftruncate(file, count * _PLACE)
        return file

    async def put(self, images: Sequence[NDArray[np.uint8]]) -> list[int]:
        """Copy images, (S, S, C), into places, once there are so many; return which."""
        # Several models may admit more together than there are places; all in the order they came.
        async with self._line:
            while len(self._free) < len(images):
                self._freed.clear()
                await self._freed.wait()
            slots = [self._free.popleft() for _ in images]
        for slot, image in zip(slots, images, strict=True):
            np.copyto(self.view(slot, len(image)), image)
        return slots

    def give_back(self, slots: Sequence[int]) -> None:
        """Let others have these places."""
        self._free.extend(slots)
        self._freed.set()

    def view(self, slot: int, side: int) -> NDArray[np.uint8]:
        """Return the image of a place, (S, S, C), where it lies."""
        at = slot * _PLACE
        flat: NDArray[np.uint8] = np.frombuffer(self._memory, np.uint8, side * side * 3, at)
        return flat.reshape(side, side, 3)


def error_of(error: BaseException) -> dict[str, Any]:
    """Return an error as JSON."""
    if isinstance(error, ServiceError):
        return {"code": error.code.name, "text": str(error), "retry_after_s": error.retry_after_s}
    return {"code": "", "text": f"{type(error).__name__}: {error}", "retry_after_s": None}


def raised(told: dict[str, Any]) -> Exception:
    """Return the error that was told; one that no caller should see is a RuntimeError."""
    kind = _ERRORS.get(told["code"])
    if kind is None:
        return RuntimeError(told["text"])
    error = kind(told["text"])
    error.retry_after_s = told["retry_after_s"]
    return error
