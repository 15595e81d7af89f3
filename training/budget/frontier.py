"""What a side and a number of photos seen promise: curves that were measured, kept as data."""

import tomllib
from bisect import bisect
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from math import log

MOST_EPOCHS = 200
"""So many at the most: beyond them nothing was measured on any photos."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Runs at one side, from few photos seen to many."""

    image_size: int
    """Side in pixels."""
    photos_seen: tuple[float, ...]
    """Photos that a run trained on, each counted in every epoch; rising."""
    top1: tuple[float, ...]
    """Validation top-1 of each run, a fraction."""

    def promise(self, photos_seen: float) -> float:
        """Return the top-1 that so many photos promise, a fraction.

        Between two runs it is a straight line over the logarithm. Below the first the line falls on
        to zero, and beyond the last nothing more is promised.
        """
        if photos_seen >= self.photos_seen[-1]:
            return self.top1[-1]
        at = max(bisect(self.photos_seen, photos_seen), 1)
        low, high = self.photos_seen[at - 1], self.photos_seen[at]
        share = log(photos_seen / low) / log(high / low)
        return max(self.top1[at - 1] + share * (self.top1[at] - self.top1[at - 1]), 0.0)


@cache
def frontier() -> tuple[Curve, ...]:
    """Return the curves of `frontier.toml`, from the smallest side to the largest."""
    table = tomllib.loads(files(__package__).joinpath("frontier.toml").read_text("utf-8"))
    curves = (
        Curve(
            curve["image_size"],
            tuple(epochs * table["num_photos"] for epochs, _ in curve["runs"]),
            tuple(percent / 100 for _, percent in curve["runs"]),
        )
        for curve in table["curve"]
    )
    return tuple(sorted(curves, key=lambda curve: curve.image_size))
