"""How long an image takes, learnt from finished work, to tell early what would come too late.

`bound_s` is the mean plus three mean deviations, so nearly every admitted call keeps its deadline.
TCP computes its retransmission time-out in the same way (RFC 6298).

What is refused teaches nothing, so an estimate that is too high would stay. It therefore sinks to
the first guess while nothing is observed.
"""

from time import monotonic

_GAIN = 0.1
_STALE_S = 1.0
"""How long after an observation the estimate begins to sink."""
_HALF_LIFE_S = 5.0
"""What is above the first guess halves in this time."""
_MOST = 10.0
"""One observation counts as so many times the mean at most: a process that stood still, as a
sleeping laptop does, has measured its sleep."""


class ServiceTime:
    """An estimate of seconds per image: a running mean and its mean deviation."""

    def __init__(self, guess_s: float = 0.0) -> None:
        """Begin with a guess, in seconds per image; 0 where there is none."""
        self._guess_s = guess_s
        self._mean_s = guess_s
        self._deviation_s = guess_s / 2
        self._at_s = monotonic()

    def observe(self, seconds: float, images: float, *, part: float = 1.0) -> None:
        """Learn that `images` images took `seconds`; `part` of a whole observation."""
        each_s = seconds / images
        self._at_s = monotonic()
        if not self._mean_s:
            self._mean_s, self._deviation_s = each_s, each_s / 2
            return
        each_s = min(each_s, _MOST * self._mean_s)
        gain = _GAIN * part
        self._deviation_s += gain * (abs(each_s - self._mean_s) - self._deviation_s)
        self._mean_s += gain * (each_s - self._mean_s)

    def expected_s(self, images: int) -> float:
        """Return how long `images` images take on average; 0 before the first observation."""
        self._sink()
        return self._mean_s * images

    def bound_s(self, images: int) -> float:
        """Return a time that `images` images nearly always stay below."""
        self._sink()
        return (self._mean_s + 3 * self._deviation_s) * images

    def _sink(self) -> None:
        now_s = monotonic()
        if now_s - self._at_s < _STALE_S:
            return
        left = 0.5 ** ((now_s - self._at_s) / _HALF_LIFE_S)
        self._at_s = now_s
        guess_s = self._guess_s
        self._mean_s = min(self._mean_s, guess_s + left * (self._mean_s - guess_s))
        self._deviation_s = min(
            self._deviation_s, guess_s / 2 + left * (self._deviation_s - guess_s / 2)
        )


class QueueTime:
    """An estimate of how long a queue of several kinds of images takes.

    An original from a camera takes fifty times as long as a thumbnail, so each kind has an estimate
    of its own. A queue is given as how many images of each kind it holds.
    """

    def __init__(self, kinds: int, guess_s: float) -> None:
        """Begin with one guess, in seconds per image, for every kind."""
        self._times = [ServiceTime(guess_s) for _ in range(kinds)]

    def observe(self, seconds: float, queue: list[float]) -> None:
        """Learn that a queue took `seconds`; each kind learns by its share of what was expected."""
        parts = [time.expected_s(1) * count for time, count in zip(self._times, queue, strict=True)]
        whole = sum(parts)
        if not whole:  # nothing is known of any kind
            parts, whole = queue, sum(queue)
        for time, count, part in zip(self._times, queue, parts, strict=True):
            if part:
                time.observe(seconds * part / whole, count, part=part / whole)

    def observe_at_least(self, seconds: float, queue: list[float]) -> None:
        """Learn that a queue was given up after `seconds`, and would have taken longer.

        Without this the estimate would learn only from work that was fast enough.
        """
        if seconds > self.expected_s(queue):
            self.observe(seconds, queue)

    def expected_s(self, queue: list[float]) -> float:
        """Return how long a queue takes on average; 0 before the first observation."""
        return sum(
            time.expected_s(1) * count for time, count in zip(self._times, queue, strict=True)
        )

    def bound_s(self, queue: list[float]) -> float:
        """Return a time that the queue nearly always stays below."""
        return sum(time.bound_s(1) * count for time, count in zip(self._times, queue, strict=True))
