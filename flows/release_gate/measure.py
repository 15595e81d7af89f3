"""What a model file answers and how fast, measured through the service's own code.

The same bytes, `service.pixels.preprocessing`, `service.models.model`: what is measured here is
what will be served. `smoke` goes the whole way, over gRPC, to a server of its own.

Shapes: N photos, S side, K classes.
"""

import asyncio
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from machine import num_cores
from service.models.model import Model
from storage import temporary_folder
from terminal import Progress, UserError, no_progress

_BATCH = 32
_SMOKE_PHOTOS = 16
_SMOKE_DIFFERENCE = 1e-3
_START_S = 120.0


@dataclass(frozen=True, slots=True)
class Answers:
    """A model's top answer to each photo."""

    labels: tuple[str, ...]
    """The model's classes."""
    predicted: tuple[str, ...]
    confidence: tuple[float, ...]
    """Probability of the class that was predicted."""


def answers(model: Model, files: Sequence[Path], progress: Progress = no_progress) -> Answers:
    """Return a model's answer to each photo, decoded and computed as the service does."""
    from service.pixels.preprocessing import preprocess

    size = model.metadata.image_size
    labels = model.metadata.labels
    predicted: list[str] = []
    confidence: list[float] = []
    with ThreadPoolExecutor(num_cores(), "decode") as pool:
        for start in range(0, len(files), _BATCH):
            batch = files[start : start + _BATCH]
            images_NHWC = np.stack(
                list(pool.map(lambda file: preprocess(file.read_bytes(), size), batch))
            )
            rows_NK = model.predict(images_NHWC)
            predicted += [labels[best] for best in rows_NK.argmax(1)]
            confidence += [float(best) for best in rows_NK.max(1)]
            progress(len(predicted), len(files))
    return Answers(labels, tuple(predicted), tuple(confidence))


def speed(models: Sequence[Model], rounds: int = 9) -> list[tuple[float, float]]:
    """Return for each model (ms of one photo alone, ms a photo in a batch of 32).

    Medians of runs that take turns, so that a busy machine is busy for all of them.
    """
    random = np.random.default_rng(0)
    times: list[tuple[list[float], list[float]]] = [([], []) for _ in models]
    for round_ in range(rounds + 1):
        for model, found in zip(models, times, strict=True):
            side = model.metadata.image_size
            for batch, into in zip((1, _BATCH), found, strict=True):
                images = random.integers(0, 256, (batch, side, side, 3), dtype=np.uint8)
                start_s = time.perf_counter()
                model.predict(images)
                if round_:  # the first run of a size allocates
                    into.append((time.perf_counter() - start_s) * 1000 / batch)
    return [(statistics.median(one), statistics.median(many)) for one, many in times]


def smoke(onnx: Path, files: Sequence[Path]) -> int:
    """Serve a file from a repository of its own and compare some answers; return how many.

    Raises:
        UserError: The server does not take it, or answers otherwise than the file itself.
    """
    from service.client import Classifier
    from service.models.repository import ModelRepository

    step = max(len(files) // _SMOKE_PHOTOS, 1)
    chosen = list(files)[::step][:_SMOKE_PHOTOS]
    model = Model(onnx, device="cpu")
    expected = answers(model, chosen)
    with temporary_folder("the smoke call", 2 * onnx.stat().st_size) as folder:
        ModelRepository(folder).publish("candidate", onnx)
        with _server(folder) as port, Classifier(f"127.0.0.1:{port}") as client:
            labels = client.model("candidate").labels
            results = client.classify([file.read_bytes() for file in chosen], top_k=1)
    if tuple(labels) != tuple(model.metadata.labels):
        raise UserError("smoke call: the server names other classes than the file")
    for file, result, label, confidence in zip(
        chosen, results, expected.predicted, expected.confidence, strict=True
    ):
        if result.error is not None:
            raise UserError(f"smoke call: {file}: {result.error}")
        got = result.classes[0]
        if abs(got.probability - confidence) > _SMOKE_DIFFERENCE or got.label != label:
            raise UserError(
                f"smoke call: {file} is {got.label!r} ({got.probability:.4f}) over gRPC and"
                f" {label!r} ({confidence:.4f}) by the file itself"
            )
    return len(chosen)


@contextmanager
def _server(repository: Path) -> Iterator[int]:
    """Run a server in a thread, on a free port of this machine; yield the port."""
    from service.config import ServerConfig
    from service.server.server import Server

    config = ServerConfig(
        repository=repository, host="127.0.0.1", port=0, http_port=None,
        metrics_port=None, device="cpu",
        # As the file itself is asked: another engine may compute in bf16, and differ by more.
        cpu_engine="onnxruntime",
        runs=1, decode_threads=1, drain_delay_s=0, reflection="off",
    )  # fmt: skip
    started = threading.Event()
    found: dict[str, Any] = {}

    async def live() -> None:
        try:
            async with Server(config) as server:
                found["port"], found["end"] = server.port, asyncio.Event()
                found["loop"] = asyncio.get_running_loop()
                started.set()
                await found["end"].wait()
        except Exception as error:
            found["error"] = error
        finally:
            started.set()

    thread = threading.Thread(target=lambda: asyncio.run(live()), name="smoke", daemon=True)
    thread.start()
    if not started.wait(_START_S) or "error" in found:
        raise UserError(f"smoke call: the server did not start: {found.get('error', 'time-out')}")
    try:
        yield found["port"]
    finally:
        found["loop"].call_soon_threadsafe(found["end"].set)
        thread.join(60)
