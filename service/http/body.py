"""Request bodies, bounded before they are read: how long, how many at once, and how slow."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from starlette.requests import Request

from service.errors import OverloadedError
from service.http.problems import HttpError
from service.observability.metrics import Metrics

_GRACE_S = 5.0
_SLOWEST = 64 * 2**10
"""Bytes a second that a body must keep up after the first seconds; a slower sender is cut off."""


class Bodies:
    """Reads bodies; all that are being read fit into one budget."""

    def __init__(self, metrics: Metrics, *, most: int, most_together: int) -> None:
        """Begin with nothing.

        Args:
            metrics: Where refusals are counted.
            most: Most bytes of one body.
            most_together: Most bytes of all bodies that are read at a time.
        """
        self._metrics = metrics
        self._most = most
        self._most_together = most_together
        self._held = 0

    async def read(self, request: Request) -> bytes:
        """Return the whole body of a request.

        Raises:
            HttpError: It is too long, compressed, or too slow.
            OverloadedError: Others that are being read leave no room for it.
            ClientDisconnect: The caller is gone.
        """
        if encoding := request.headers.get("content-encoding"):
            raise HttpError(
                415, f"Content-Encoding {encoding!r} is not read; photos are compressed already"
            )
        told = request.headers.get("content-length")
        # The parser has made sure that it is a number.
        announced = int(told) if told is not None else 0
        self._check(announced)
        with self._reading() as add:
            add(announced)
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
                    if size > announced:
                        self._check(size)
                        add(len(chunk))
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

    @contextmanager
    def _reading(self) -> Iterator[Callable[[int], None]]:
        """Hold a part of the budget until the body is read; yields what takes more of it."""
        held = 0

        def add(count: int) -> None:
            nonlocal held
            # What is larger than all of it is let in alone; the limit on one body bounds it.
            if self._held and self._held + count > self._most_together:
                self._metrics.rejected_images.labels("bytes_full").inc()
                raise OverloadedError(
                    f"the server is full: bodies of {self._held} bytes are being read, and {count}"
                    f" more are beyond its {self._most_together}; try again later",
                    retry_after_s=0.1,
                )
            held += count
            self._held += count

        try:
            yield add
        finally:
            self._held -= held
