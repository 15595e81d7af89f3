"""Request bodies, bounded before they are read: how long, how many at once, and how slow."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import TypeVar

from starlette.requests import Request

from service.batching.byte_budget import ByteBudget
from service.http.problems import HttpError

_GRACE_S = 5.0
_SLOWEST = 64 * 2**10
"""Lowest rate of a body in bytes a second, after the first seconds; a slower sender is cut off."""


_SHORT_BYTES = 2**18
_long = ThreadPoolExecutor(1, "long-body")
Made = TypeVar("Made")


async def made_of(body: bytes, work: Callable[[], Made]) -> Made:
    """Return what `work` makes of a body; a long one is worked on in a thread.

    15 MiB of JSON would hold up the event loop for 100 ms. One at a time: each holds the
    interpreter's lock for as long as that, and the loop would wait for all of them.
    """
    if len(body) <= _SHORT_BYTES:
        return work()
    return await asyncio.get_running_loop().run_in_executor(_long, work)


class Bodies:
    """Reads bodies; their sum is bounded by the server's budget of bytes."""

    def __init__(self, budget: ByteBudget, *, most: int) -> None:
        """Share the budget with gRPC.

        Args:
            budget: Bounds the bytes of all bodies, and of what comes over gRPC.
            most: Most bytes of one body. A body of unknown length counts as so many.
        """
        self._budget = budget
        self._most = most

    async def read(self, request: Request) -> bytes:
        """Return the whole body of a request.

        Raises:
            HttpError: It is too long, compressed, or too slow.
            OverloadedError: It does not fit beside those that are being read.
            ClientDisconnect: The caller has closed the connection.
        """
        if encoding := request.headers.get("content-encoding"):
            raise HttpError(
                415, f"Content-Encoding {encoding!r} is not read; photos are compressed already"
            )
        chunked = "transfer-encoding" in request.headers
        # The parser has checked that it is a number.
        announced = int(request.headers.get("content-length", 0))
        self._check(announced)
        with self._budget.take(self._most if chunked else announced):
            chunks: list[bytes] = []
            size = 0
            started_s = monotonic()
            stream = request.stream()
            try:
                while True:
                    left_s = started_s + _GRACE_S + size / _SLOWEST - monotonic()
                    async with asyncio.timeout(max(left_s, 0)):
                        chunk = await anext(stream, None)
                    if chunk is None:
                        break
                    size += len(chunk)
                    self._check(size)
                    chunks.append(chunk)
            except TimeoutError:
                raise HttpError(
                    408,
                    f"the body comes too slowly: {size} bytes in {monotonic() - started_s:.0f} s,"
                    f" where {_SLOWEST // 2**10} kB a second are expected",
                ) from None
            return b"".join(chunks)

    def _check(self, size: int) -> None:
        if size > self._most:
            raise HttpError(
                413, f"the body has {size} bytes or more; at most {self._most} are accepted"
            )
