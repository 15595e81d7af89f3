"""When a command is to be ended: durations as people write them, `90s`, `30m` or `1h30m`."""

import re
import time
from dataclasses import dataclass

from training.errors import ConfigError

_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")
LONGEST_S = 30 * 86_400.0
"""A month: whoever writes more has most likely mistaken the unit."""


def seconds_of(text: str) -> float:
    """Return a duration such as `90s`, `30m` or `1h30m` in seconds.

    Raises:
        ConfigError: It is no duration, it is zero, or longer than a month.

    >>> seconds_of("1h30m")
    5400.0
    """
    found = _DURATION.fullmatch(text.strip().lower())
    if found is None or not any(found.groups()):
        raise ConfigError(
            f"{text!r} is no duration: write hours, minutes and seconds with their letters, such"
            " as 90s, 30m or 1h30m"
        )
    hours, minutes, rest = (float(part or 0) for part in found.groups())
    seconds = 3600 * hours + 60 * minutes + rest
    if not 0 < seconds <= LONGEST_S:
        raise ConfigError(f"{text!r} must be longer than nothing, and 30 days (720h) at the most")
    return seconds


def shown(seconds: float) -> str:
    """Return a duration as people read it, without more digits than matter.

    >>> [shown(s) for s in (8.4, 95, 1800, 5430)]
    ['8 s', '1 min 35 s', '30 min', '1 h 30 min']
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min" + (f" {whole % 60} s" if whole % 60 else "")
    return f"{whole // 3600} h" + (f" {whole % 3600 // 60} min" if whole % 3600 >= 60 else "")


@dataclass(frozen=True, slots=True)
class Deadline:
    """A duration that began when the command did."""

    text: str
    """As it was written."""
    started_s: float
    num_runs: int
    """Runs that share it equally, one after another."""

    @classmethod
    def of(cls, text: str, num_runs: int = 1) -> "Deadline":
        """Begin a duration such as `30m` now.

        Raises:
            ConfigError: See `seconds_of`.
        """
        seconds_of(text)
        return cls(text, time.monotonic(), num_runs)

    @property
    def left_s(self) -> float:
        """Seconds that are left for each run; call it before the first one begins."""
        return (seconds_of(self.text) - (time.monotonic() - self.started_s)) / self.num_runs
