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
class MeasuredRun:
    """A run at one side."""

    epochs: int
    top1: float
    """On validation, a fraction."""
    seconds: float
    """Of training and validation on one core; 0 where it was not timed."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Runs at one side, from few photos seen to many."""

    image_size: int
    """Side in pixels."""
    num_photos: int
    """Photos that each run trained on, all of them in every epoch."""
    runs: tuple[MeasuredRun, ...]
    """From few epochs to many."""

    def promise(self, photos_seen: float) -> float:
        """Return the top-1 that so many photos promise, a fraction.

        Between two runs it is a straight line over the logarithm. Below the first the line falls on
        to zero, and beyond the last nothing more is promised.
        """
        epochs = photos_seen / self.num_photos
        if epochs >= self.runs[-1].epochs:
            return self.runs[-1].top1
        at = max(bisect(self.runs, epochs, key=lambda run: run.epochs), 1)
        low, high = self.runs[at - 1], self.runs[at]
        share = log(epochs / low.epochs) / log(high.epochs / low.epochs)
        return max(low.top1 + share * (high.top1 - low.top1), 0.0)


@cache
def frontier() -> tuple[Curve, ...]:
    """Return the curves of `frontier.toml`, from the smallest side to the largest."""
    table = tomllib.loads(files(__package__).joinpath("frontier.toml").read_text("utf-8"))
    curves = (
        Curve(
            curve["image_size"],
            table["num_photos"],
            tuple(
                MeasuredRun(epochs, percent / 100, seconds)
                for epochs, percent, seconds in curve["runs"]
            ),
        )
        for curve in table["curve"]
    )
    return tuple(sorted(curves, key=lambda curve: curve.image_size))
