"""Long-lived streams: requests are worked on concurrently, and answered in order."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from service.errors import UnavailableError

Request = TypeVar("Request")
Response = TypeVar("Response")

WINDOW = 4
"""Requests of one stream in work at a time. Further ones are not read: gRPC's flow control then
slows the sender down, and they stay in the sender's memory."""


async def in_order(
    requests: AsyncIterator[Request],
    answer: Callable[[Request], Awaitable[Response]],
    stopping: asyncio.Event,
    may_read: Callable[[], Awaitable[None]] | None = None,
) -> AsyncIterator[Response]:
    """Yield the answer to every request of a stream.

    Args:
        requests: What the caller sends.
        answer: Answers one request; it puts errors into the answer and does not raise them.
        stopping: Once set, no further request is read.
        may_read: Called before each request is read; waits until the server can take one.

    Raises:
        UnavailableError: The server drains. Every request that was read is answered first.
    """
    working: deque[asyncio.Future[Response]] = deque()
    stopped = asyncio.ensure_future(stopping.wait())
    reading: asyncio.Future[Request] | None = None
    ended = False
    try:
        while True:
            # First of all: it may have been read while an answer was being sent.
            if reading is not None and reading.done():
                try:
                    working.append(asyncio.ensure_future(answer(reading.result())))
                except StopAsyncIteration:
                    ended = True
                reading = None
            if reading is None and not ended and not stopped.done() and len(working) < WINDOW:
                reading = asyncio.ensure_future(_next(requests, may_read))
            if stopped.done() and reading is not None:
                reading.cancel()
                reading = None
            waiting = {each for each in (reading, *list(working)[:1]) if each is not None}
            if not waiting:
                break
            if not stopped.done():
                waiting.add(stopped)  # type: ignore[arg-type]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            while working and working[0].done():
                yield working.popleft().result()
        if not ended:
            raise UnavailableError(
                "the server is draining; send what is not answered again", retry_after_s=0
            )
    finally:
        left = [each for each in (stopped, reading, *working) if each is not None]
        for each in left:
            each.cancel()
        await asyncio.gather(*left, return_exceptions=True)


async def _next(
    requests: AsyncIterator[Request], may_read: Callable[[], Awaitable[None]] | None
) -> Request:
    if may_read is not None:
        await may_read()
    return await anext(requests)  # a task wants a coroutine
