"""Sends what a run writes to trackers, in a thread; a tracker that fails is tried again.

metrics.jsonl ─► Follower ─► one _Sending for each tracker, which remembers what it has had
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from terminal import say
from training.runs.run_record import RunRecord

logger = logging.getLogger(__name__)

POLL_S = 2.0
"""Seconds between two reads of `metrics.jsonl`."""

_FINISH_S = 60.0
"""Seconds to send the last epochs and the report; after that the run ends without."""

_MOST_PAUSE_S = 60.0
_LAST_PAUSES_S = (1.0, 2.0, 5.0)
"""Before each further try when the run has ended."""


class Tracker(Protocol):
    """Receives the epochs of a run. It must accept an epoch that it has received before."""

    name: str

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Record an epoch, a line of `metrics.jsonl`."""

    def finish(self, run: RunRecord | None) -> None:
        """Record a finished run; None if the run was stopped or failed."""


class _Sending:
    """What goes to one tracker."""

    def __init__(self, name: str, make: Callable[[], Tracker], pause_s: float) -> None:
        self.name = name
        self.failure = ""
        """Why the last try failed; empty if it did not."""
        self._make = make
        self._tracker: Tracker | None = None
        self._sent = 0
        self._pauses_s = (pause_s, pause_s)
        self._again_s = 0.0

    def send(self, lines: Sequence[str], *, at_once: bool = False) -> None:
        """Send the epochs that it has not had, unless it failed a moment ago."""
        if at_once or time.monotonic() >= self._again_s:
            self._try(lambda: self._epochs(lines))

    def finish(self, lines: Sequence[str], run: RunRecord | None) -> None:
        """Send the last epochs and how the run ended; try again some times."""

        def all_of_it() -> None:
            self._epochs(lines)
            if self._tracker is not None:
                self._tracker.finish(run)

        self._try(all_of_it)
        for pause_s in _LAST_PAUSES_S:
            if not self.failure:
                return
            time.sleep(pause_s)
            self._try(all_of_it)
        if self.failure:
            say(
                f"warning: {self.name} has {self._sent} of {len(lines)} epochs ({self.failure});"
                " the run is whole in its files, and the same command sends the rest"
            )

    def _epochs(self, lines: Sequence[str]) -> None:
        if self._tracker is None:
            self._tracker = self._make()
        for line in lines[self._sent :]:
            self._tracker.epoch(json.loads(line))
            self._sent += 1

    def _try(self, action: Callable[[], object]) -> None:
        first, pause_s = self._pauses_s
        try:
            action()
        except Exception as error:
            logger.debug("tracker %s failed", self.name, exc_info=True)
            reason = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
            if not self.failure:
                say(f"warning: {self.name} does not take the run ({reason}); tried again later")
            self.failure = reason
            self._again_s = time.monotonic() + pause_s
            self._pauses_s = (first, min(pause_s * 2, _MOST_PAUSE_S))
        else:
            self.failure, self._pauses_s = "", (first, first)


class Follower:
    """Sends every new epoch of a run to each tracker, in a thread of its own."""

    def __init__(
        self, run_dir: Path, trackers: Mapping[str, Callable[[], Tracker]], poll_s: float = POLL_S
    ) -> None:
        self._run_dir = run_dir
        self._poll_s = poll_s
        self._sendings = [_Sending(name, make, poll_s) for name, make in trackers.items()]
        self._ended = threading.Event()
        self._finished = False
        # A daemon, so that a server that hangs does not keep the process from ending.
        self._thread = threading.Thread(target=self._follow, name="tracking", daemon=True)

    def start(self) -> None:
        """Start the thread; it makes the trackers once the run has written its config."""
        if self._sendings:
            self._thread.start()

    def stop(self, *, finished: bool) -> None:
        """Send the last epochs and end; `finished` says that the run reached its end."""
        if not self._sendings:
            return
        self._finished = finished
        self._ended.set()
        self._thread.join(_FINISH_S)
        if self._thread.is_alive():
            names = ", ".join(each.name for each in self._sendings)
            say(f"warning: {names} did not take the run in time; it is in its files")

    def _follow(self) -> None:
        while not self._ended.wait(self._poll_s):
            if (self._run_dir / "config.json").is_file():
                for sending in self._sendings:
                    sending.send(self._lines())
        if not (self._run_dir / "config.json").is_file():
            return
        # All have the last epochs before any is waited for.
        for sending in self._sendings:
            sending.send(self._lines(), at_once=True)
        run = None
        if self._finished:
            try:
                run = RunRecord.open(self._run_dir)
            except Exception as error:
                say(f"warning: the run cannot be read ({error})")
        for sending in sorted(self._sendings, key=lambda each: bool(each.failure)):
            sending.finish(self._lines(), run)

    def _lines(self) -> list[str]:
        """Return the lines of metrics; the file is replaced at once, so each is complete."""
        try:
            return (self._run_dir / "metrics.jsonl").read_text("utf-8").splitlines()
        except FileNotFoundError:
            return []
