"""The parts of `hansang demo` that no flow has: serve, classify every photo, sum up."""

import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flows.release_gate.candidate import Release
from terminal import Progress, UserError, no_progress

_START_S = 120.0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the closing table of the demo shows."""

    classes: int
    epochs: int
    best_epoch: int
    val_top1: float
    served_top1: float
    photos: int
    photos_per_s: float
    """Median over the epochs of photos trained a second."""
    ms_per_answer: float


@dataclass(frozen=True, kw_only=True)
class Answers:
    """How the service answered the validation photos."""

    photos: int
    correct: int
    ms_per_answer: float
    """Median time of a call with one photo, one call at a time, in milliseconds."""


@contextmanager
def serving(repository: Path, port: int, http_port: int) -> Iterator[str]:
    """Run `hansang serve` as a process of its own; yield its gRPC address; stop it with SIGTERM.

    Raises:
        UserError: The service did not become ready; the message ends with its log.
    """
    from service.client import Classifier
    from service.errors import ServiceError

    log = repository / "serve.log"
    address = f"localhost:{port}"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "hansang", "serve", "--repository", str(repository),
             "--host", "127.0.0.1", "--port", str(port), "--http-port", str(http_port),
             "--metrics-port", "0"],
            stdout=output, stderr=output, env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        try:
            deadline = time.monotonic() + _START_S
            while True:
                try:
                    with Classifier(address, timeout_s=1) as client:
                        client.model()
                    break
                except ServiceError as error:
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise UserError(
                            f"the service did not start: {log.read_text()[-2000:]}"
                        ) from error
                    time.sleep(0.1)
            yield address
        finally:
            process.terminate()
            process.wait(60)


def classify_split(address: str, folder: Path, *, progress: Progress = no_progress) -> Answers:
    """Send every photo of a split folder (`<folder>/<class>/<photo>`) alone, and count."""
    from service.client import Classifier

    photos = sorted(path for path in folder.glob("*/*") if path.is_file())
    times_s: list[float] = []
    correct = 0
    with Classifier(address) as client:
        for index, photo in enumerate(photos):
            image = photo.read_bytes()
            start_s = time.perf_counter()
            (answer,) = client.classify([image], top_k=1)
            times_s.append(time.perf_counter() - start_s)
            correct += answer.error is None and answer.classes[0].label == photo.parent.name
            progress(index + 1, len(photos))
    return Answers(
        photos=len(photos),
        correct=correct,
        ms_per_answer=statistics.median(times_s) * 1000,
    )


def outcome(released: Release, answers: Answers, classes: int) -> Outcome:
    """Put together what training, the release gate and the service each measured."""
    lines = (released.run_dir / "metrics.jsonl").read_text().splitlines()
    epochs = [json.loads(line) for line in lines]
    return Outcome(
        classes=classes,
        epochs=len(epochs),
        best_epoch=released.epoch,
        val_top1=released.val_top1,
        served_top1=answers.correct / answers.photos,
        photos=answers.photos,
        photos_per_s=statistics.median(epoch["photos_per_s"] for epoch in epochs),
        ms_per_answer=answers.ms_per_answer,
    )


def free_port() -> int:
    """Ask the system for a port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
