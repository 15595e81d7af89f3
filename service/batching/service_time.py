"""How long an image takes, learnt from finished work, to tell early what would come too late.

`bound_s` is the mean plus three mean deviations, so nearly every admitted call keeps its deadline.
TCP computes its retransmission time-out in the same way (RFC 6298).
"""

_GAIN = 0.1


class ServiceTime:
    """An estimate of seconds per image: a running mean and its mean deviation."""

    def __init__(self, guess_s: float = 0.0) -> None:
        """Begin with a guess, in seconds per image; 0 where there is none."""
        self._mean_s = guess_s
        self._deviation_s = guess_s / 2

    def observe(self, seconds: float, images: int) -> None:
        """Learn that `images` images took `seconds`."""
        each_s = seconds / images
        if not self._mean_s:
            self._mean_s, self._deviation_s = each_s, each_s / 2
            return
        self._deviation_s += _GAIN * (abs(each_s - self._mean_s) - self._deviation_s)
        self._mean_s += _GAIN * (each_s - self._mean_s)

    def observe_at_least(self, seconds: float, images: int) -> None:
        """Learn that `images` images were given up after `seconds`, and would have taken longer.

        Without this the estimate would learn only from work that was fast enough.
        """
        if seconds > self._mean_s * images:
            self.observe(seconds, images)

    def expected_s(self, images: int) -> float:
        """Return how long `images` images take on average; 0 before the first observation."""
        return self._mean_s * images

    def bound_s(self, images: int) -> float:
        """Return a time that `images` images nearly always stay below."""
        return (self._mean_s + 3 * self._deviation_s) * images

    def relax(self) -> None:
        """Lower the estimate by a tenth.

        Called when everything that waited was turned away. No work means no new observations, so
        one slow run would otherwise refuse calls for ever.
        """
        self._mean_s *= 0.9
        self._deviation_s *= 0.9
