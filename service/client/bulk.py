"""The unanswered requests of a bulk stream, kept so that a new stream can send them again.

Requests are made from an iterable as they are needed, so only a window of photos is in memory.
After a broken stream, a new one first sends what was not answered.

photos ─► Backlog (at most WINDOW requests) ─► stream ─► answers, in order
"""

import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from service.client.wire import MAX_CALL_BYTES, Result, merged, sendable
from service.pb import classifier_pb2 as pb

IMAGES_PER_REQUEST = 16
WINDOW = 8
"""Most requests that are sent and not answered."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestOptions:
    """What every request of one bulk asks for."""

    top_k: int
    model: str = ""
    version: int = 0


class Backlog:
    """The unanswered requests of a bulk, the oldest first. Not safe for several threads."""

    def __init__(self, options: RequestOptions) -> None:
        self._options = options
        self._waiting: deque[list[bytes | Result]] = deque()
        self._answered = 0
        self._next: list[bytes | Result] = []
        self._num_images = 0
        self._num_bytes = 0
        self.ended = False

    @property
    def full(self) -> bool:
        """Whether `WINDOW` requests wait for an answer."""
        return len(self._waiting) >= WINDOW

    @property
    def done(self) -> bool:
        """Whether all images were added, and every request is answered."""
        return self.ended and not self._waiting

    @property
    def first(self) -> int:
        """The number of the oldest request that is not answered."""
        return self._answered

    def add(self, image: bytes | Result) -> None:
        """Add an image, or the result of one that need not be sent."""
        entry = image if isinstance(image, Result) else sendable(image)
        if isinstance(entry, bytes):
            if self._num_images and self._num_bytes + len(entry) > MAX_CALL_BYTES:
                self._cut()
            self._num_images += 1
            self._num_bytes += len(entry)
        self._next.append(entry)
        # Results are not counted, so that every request has an image.
        if self._num_images == IMAGES_PER_REQUEST:
            self._cut()

    def end(self) -> list[Result]:
        """Note that no image follows; return the results after the last request, if any."""
        self.ended = True
        if self._num_images:
            self._cut()
        return merged(self._next, [])

    def request(self, number: int) -> pb.ClassifyRequest | None:
        """Return the request of that number; None while it is not complete."""
        at = number - self._answered
        if at >= len(self._waiting):
            return None
        images = [entry for entry in self._waiting[at] if isinstance(entry, bytes)]
        return pb.ClassifyRequest(
            images=images,
            top_k=self._options.top_k,
            model=self._options.model,
            model_version=self._options.version,
        )

    def answer(self, results: list[Result]) -> list[Result]:
        """Take the answer to the oldest request; return a result for each of its images."""
        self._answered += 1
        return merged(self._waiting.popleft(), results)

    def _cut(self) -> None:
        self._waiting.append(self._next)
        self._next, self._num_images, self._num_bytes = [], 0, 0


class SharedBacklog:
    """A backlog for two threads: the caller's reads answers, and gRPC's sends requests.

    Attributes:
        tail: The results after the last request.
    """

    def __init__(self, images: Iterator[bytes | Result], backlog: Backlog) -> None:
        self._images = images
        self._backlog = backlog
        self._changed = threading.Condition()
        self._stream = 0
        self._error: BaseException | None = None
        self.tail: list[Result] = []

    def requests(self) -> Iterator[pb.ClassifyRequest]:
        """Return the requests of a new stream, from the oldest unanswered one on."""
        with self._changed:
            self._stream += 1
            return self._requests(self._stream, self._backlog.first)

    def answer(self, results: list[Result]) -> list[Result]:
        """Take the answer to the oldest request; see `Backlog.answer`."""
        with self._changed:
            self._changed.notify_all()
            return self._backlog.answer(results)

    def stop(self) -> None:
        """End the requests of the current stream."""
        with self._changed:
            self._stream += 1
            self._changed.notify_all()

    def done(self) -> bool:
        """Return whether all images were added, and every request is answered."""
        with self._changed:
            return self._backlog.done

    def check(self) -> None:
        """Raise the error that reading the images raised, if any."""
        if self._error is not None:
            raise self._error

    def _requests(self, stream: int, number: int) -> Iterator[pb.ClassifyRequest]:
        while True:
            # Held while images are read: an old and a new stream share the iterator.
            with self._changed:
                while stream == self._stream and (
                    number - self._backlog.first >= WINDOW or not self._cut(number)
                ):
                    if self._backlog.ended and self._backlog.request(number) is None:
                        return
                    self._changed.wait()
                request = self._backlog.request(number)
                if stream != self._stream or request is None:
                    return
            number += 1
            yield request

    def _cut(self, number: int) -> bool:
        """Read images until the request of this number is complete; return whether it is."""
        while self._backlog.request(number) is None and not self._backlog.ended:
            try:
                self._backlog.add(next(self._images))
            except StopIteration:
                self.tail = self._backlog.end()
            except BaseException as error:
                # `check` raises it in the caller's thread, since this is gRPC's.
                self._error = error
                self._backlog.end()
                self._stream += 1
        return self._backlog.request(number) is not None
