"""What a bulk stream has sent and what is not answered yet: it can begin again and lose nothing.

Requests are cut from an iterable as they are wanted, so that thousands of photos are never in
memory at a time. After a broken stream a new one sends what was not answered, and goes on.
"""

import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from service.client.wire import MAX_CALL_BYTES, Result, merged, sendable
from service.pb import classifier_pb2 as pb

IMAGES_PER_REQUEST = 16
WINDOW = 8
"""Requests that are sent and not answered, at most."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """What every request of a bulk asks for."""

    top_k: int
    model: str = ""
    version: int = 0


class Backlog:
    """The requests of a bulk that are not answered, the oldest first. Knows no threads."""

    def __init__(self, wish: Wish) -> None:
        self._wish = wish
        self._waiting: deque[list[bytes | Result]] = deque()
        self._answered = 0
        self._next: list[bytes | Result] = []
        self._num_images = 0
        self._num_bytes = 0
        self.ended = False

    @property
    def full(self) -> bool:
        """Whether as many requests wait for an answer as may."""
        return len(self._waiting) >= WINDOW

    @property
    def done(self) -> bool:
        """Whether everything is answered."""
        return self.ended and not self._waiting

    @property
    def first(self) -> int:
        """Return the number of the oldest request that is not answered."""
        return self._answered

    def add(self, image: bytes | Result) -> None:
        """Take an image, or the result of one that need not be sent."""
        place = image if isinstance(image, Result) else sendable(image)
        if isinstance(place, bytes):
            if self._num_images and self._num_bytes + len(place) > MAX_CALL_BYTES:
                self._cut()
            self._num_images += 1
            self._num_bytes += len(place)
        self._next.append(place)
        # Results do not count: no request is without an image.
        if self._num_images == IMAGES_PER_REQUEST:
            self._cut()

    def end(self) -> list[Result]:
        """Hear that no image follows; return the results behind the last request, if any."""
        self.ended = True
        if self._num_images:
            self._cut()
        return merged(self._next, [])

    def request(self, number: int) -> pb.ClassifyRequest | None:
        """Return a request by its number; None as long as it has not been cut."""
        at = number - self._answered
        if at >= len(self._waiting):
            return None
        images = [place for place in self._waiting[at] if isinstance(place, bytes)]
        wish = self._wish
        return pb.ClassifyRequest(
            images=images, top_k=wish.top_k, model=wish.model, model_version=wish.version
        )

    def answer(self, results: list[Result]) -> list[Result]:
        """Take the answer to the oldest request; return a result for each of its places."""
        self._answered += 1
        return merged(self._waiting.popleft(), results)

    def _cut(self) -> None:
        self._waiting.append(self._next)
        self._next, self._num_images, self._num_bytes = [], 0, 0


class Feed:
    """A backlog between the thread that reads answers and gRPC's, which sends requests.

    Attributes:
        tail: The results behind the last request.
    """

    def __init__(self, images: Iterator[bytes | Result], backlog: Backlog) -> None:
        self._images = images
        self._backlog = backlog
        self._changed = threading.Condition()
        self._stream = 0
        self._error: BaseException | None = None
        self.tail: list[Result] = []

    def requests(self) -> Iterator[pb.ClassifyRequest]:
        """Return the requests of a new stream, from the oldest that is not answered."""
        with self._changed:
            self._stream += 1
            return self._requests(self._stream, self._backlog.first)

    def answer(self, results: list[Result]) -> list[Result]:
        """Take an answer; see `Backlog.answer`."""
        with self._changed:
            self._changed.notify_all()
            return self._backlog.answer(results)

    def stop(self) -> None:
        """End the present stream's requests."""
        with self._changed:
            self._stream += 1
            self._changed.notify_all()

    def done(self) -> bool:
        """Return whether everything is answered."""
        with self._changed:
            return self._backlog.done

    def check(self) -> None:
        """Raise what reading the images raised."""
        if self._error is not None:
            raise self._error

    def _requests(self, stream: int, number: int) -> Iterator[pb.ClassifyRequest]:
        while True:
            # Held while images are read: two streams must not read from one iterator.
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
        """Read images until there is a request of this number; return whether there is."""
        while self._backlog.request(number) is None and not self._backlog.ended:
            try:
                self._backlog.add(next(self._images))
            except StopIteration:
                self.tail = self._backlog.end()
            except BaseException as error:
                # Raised where the caller is, and not in gRPC's thread.
                self._error = error
                self._backlog.end()
                self._stream += 1
        return self._backlog.request(number) is not None
