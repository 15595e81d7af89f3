"""Keeps answered photos as files, without slowing a call and within its limits.

What does not fit is left out and counted. Where the place is full or cannot be written, capture
pauses, and the service goes on.
"""

import hashlib
import json
import logging
import math
import random
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from queue import SimpleQueue
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import OverloadedError, UnavailableError
from service.observability.metrics import Metrics
from service.pixels.formats import detect
from storage import Storage, StorageError

MAX_WAITING_BYTES = 32 * 2**20
"""Photos that may wait to be written."""

_PAUSE_S = 60.0
"""How long nothing is kept after the place was full or could not be written."""

_MEASURED_S = 60.0
"""How long a measurement of the place holds: others write there and take photos away."""

_CLASSES = 5
"""Classes that are written beside a photo."""

_CLOSE_S = 5.0
"""How long the end of the server waits for what is still to be written."""

_BELOW = 0.5
"""Where neither the operator nor the model says what is unsure."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """A photo and what was answered."""

    image: bytes
    model: str
    version: int
    labels: Sequence[str]
    probabilities: NDArray[np.float32]
    """One for each label."""
    min_confidence: float | None = None
    """The model's threshold; None if it has none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    answered: Answered
    reason: str
    label: str = ""
    """What a caller says that it is."""
    kept: "Future[str]" = field(default_factory=Future)
    """The name of the photo, once it is written."""


class Capture:
    """Samples answered photos, and writes them from a thread of its own."""

    def __init__(
        self, place: Storage, *, below: float | None, rate: float, max_bytes: int, metrics: Metrics
    ) -> None:
        """Start the thread.

        Args:
            place: Where photos are kept.
            below: Answers with less confidence are kept. None: those below the model's threshold,
                or below 0.5 where it has none.
            rate: The share of all other answers that is kept.
            max_bytes: Most bytes that lie in `place`.
            metrics: Where to count.
        """
        self._place = place
        self._below = below
        self._rate = rate
        self._max_bytes = max_bytes
        self._metrics = metrics
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._waiting_bytes = 0
        self._used = 0
        """Bytes in the place, when it was measured and with what was written since."""
        self._measured_s = -math.inf
        self._paused = ("", 0.0)
        """Why nothing is kept now, and until when."""
        self._thread = threading.Thread(target=self._work, name="capture", daemon=True)
        self._thread.start()

    def offer(self, answered: Answered) -> None:
        """Keep a photo if it belongs to the sample and there is room; never waits."""
        below = self._below
        if below is None:
            below = _BELOW if answered.min_confidence is None else answered.min_confidence
        if answered.probabilities.max() < below:
            reason = "unsure"
        elif random.random() < self._rate:  # a sample, no secret
            reason = "random"
        else:
            return
        why = self._put(_Job(answered=answered, reason=reason))
        if why:
            self._metrics.uncaptured_images.labels(why).inc()

    def report(self, answered: Answered, label: str) -> "Future[str]":
        """Keep a photo that was answered wrongly; the future gives the name that it is kept under.

        Args:
            answered: The photo and its answer.
            label: What it is; empty if the caller does not know, or it is of no class.

        Raises:
            OverloadedError: There is no room, now or in general.
            UnavailableError: The place cannot be written; also by the future.
        """
        job = _Job(answered=answered, reason="mistake", label=label)
        why = self._put(job)
        if why == "failed":
            raise UnavailableError("what is reported cannot be kept now", retry_after_s=_PAUSE_S)
        if why:
            pause_s = 1.0 if why == "busy" else _PAUSE_S
            raise OverloadedError("there is no room for more photos", retry_after_s=pause_s)
        return job.kept

    def close(self) -> None:
        """Write what waits, for some seconds at most."""
        self._jobs.put(None)
        self._thread.join(_CLOSE_S)

    def _put(self, job: _Job) -> str:
        """Queue a photo; else return why not: `busy`, `full` or `failed`."""
        why, until_s = self._paused
        if monotonic() < until_s:
            return why
        size = len(job.answered.image)
        with self._lock:
            if self._waiting_bytes + size > MAX_WAITING_BYTES:
                return "busy"
            self._waiting_bytes += size
        self._jobs.put(job)
        return ""

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job.kept.set_result(self._write(job))
            except (StorageError, OverloadedError) as error:
                full = isinstance(error, OverloadedError)
                self._pause("full" if full else "failed", error)
                told = error if full else UnavailableError(str(error), retry_after_s=_PAUSE_S)
                job.kept.set_exception(told)
            finally:
                with self._lock:
                    self._waiting_bytes -= len(job.answered.image)

    def _write(self, job: _Job) -> str:
        image, answered = job.answered.image, job.answered
        if monotonic() > self._measured_s + _MEASURED_S:
            self._used, self._measured_s = self._place.size(), monotonic()
        about = json.dumps(_about(job), ensure_ascii=False, indent=1).encode()
        if self._used + len(image) + len(about) > self._max_bytes:
            raise OverloadedError(
                f"{self._place.url} holds {self._used / 2**30:.2f} GiB of captured photos, and"
                f" {self._max_bytes / 2**30:.2f} are allowed: take some away, or raise"
                " --capture-max-gb"
            )
        suffix = detect(image).suffixes[0]
        name = f"{answered.model}/{hashlib.sha256(image).hexdigest()[:32]}"
        if self._place.create(name + suffix, image):
            self._used += len(image)
        # Who reports a mistake knows more than the sample.
        if job.reason == "mistake":
            self._place.write(f"{name}.json", about)
            self._used += len(about)
        elif self._place.create(f"{name}.json", about):
            self._used += len(about)
        self._metrics.captured_images.labels(job.reason).inc()
        return name + suffix

    def _pause(self, why: str, error: Exception) -> None:
        before, until_s = self._paused
        self._paused = (why, monotonic() + _PAUSE_S)
        self._metrics.uncaptured_images.labels(why).inc()
        if before != why or until_s == 0:
            logger.warning("capture pauses: %s", error)


def _about(job: _Job) -> dict[str, Any]:
    answered, probabilities = job.answered, job.answered.probabilities
    order = (-probabilities).argsort(kind="stable")[:_CLASSES].tolist()
    return {
        "reason": job.reason,
        "label": job.label,
        "model": answered.model,
        "version": answered.version,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "classes": [
            {
                "label": answered.labels[at],
                "probability": round(float(probabilities[at]), 6),
            }
            for at in order
        ],
    }
