"""How fast work goes, learnt from the work itself, to tell early what would come too late.

The estimate is a mean plus its mean deviation, thrice (TCP computes time-outs so, RFC 6298): a
call is admitted only where nearly all of its kind keep their deadline.
"""

_GAIN = 0.1


class Pace:
    """Seconds per image, as a running mean and its deviation."""

    def __init__(self, seed_s: float = 0.0) -> None:
        """Begin with a guess, in seconds per image; 0 where there is none."""
        self._mean_s = seed_s
        self._deviation_s = seed_s / 2

    def observe(self, seconds: float, images: int) -> None:
        """Learn that `images` images took `seconds`."""
        each_s = seconds / images
        if not self._mean_s:
            self._mean_s, self._deviation_s = each_s, each_s / 2
            return
        self._deviation_s += _GAIN * (abs(each_s - self._mean_s) - self._deviation_s)
        self._mean_s += _GAIN * (each_s - self._mean_s)

    def observe_at_least(self, seconds: float, images: int) -> None:
        """Learn that `images` images took more than `seconds`, since they were given up then.

        Without it only what was quick enough would be learnt from.
        """
        if seconds > self._mean_s * images:
            self.observe(seconds, images)

    def expected_s(self, images: int) -> float:
        """Return how long `images` images take on average; 0 as long as nothing is known."""
        return self._mean_s * images

    def bound_s(self, images: int) -> float:
        """Return how long `images` images take at most, nearly always."""
        return (self._mean_s + 3 * self._deviation_s) * images

    def relax(self) -> None:
        """Forget a little of what was learnt.

        Called where work was turned away altogether: one slow run must not shut the door for ever,
        since work that is not done teaches nothing.
        """
        self._mean_s *= 0.9
        self._deviation_s *= 0.9
