"""A model file asked as callers ask it: photos from disk through the service's own code.

The same bytes, `service.pixels.preprocessing`, `service.models.model`: what is measured here is
what will be served. `smoke` goes the whole way, over gRPC, to a server of its own.

Shapes: N photos, S side, K classes.
"""

import asyncio
import hashlib
import json
import os
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from service.models.model import Model
from terminal import Progress, UserError, no_progress

_BATCH = 32
_MISSING_SHARE = 0.1
_SMOKE_PHOTOS = 16
_SMOKE_DIFFERENCE = 1e-3
_START_S = 120.0


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Photos that the challenger did not learn from."""

    split: str
    """`test` if there is one; `val`, on which the best epoch was chosen, if not."""
    files: tuple[Path, ...]
    truth: tuple[str, ...]
    """The label of each, in NFC."""
    dataset_hash: str
    left_out: dict[str, int]
    """Why photos of the split are not among them → how many."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What a model said of each photo."""

    labels: tuple[str, ...]
    """The model's classes."""
    predicted: tuple[str, ...]
    confidence: tuple[float, ...]
    """Probability of the class that was predicted."""


def held_out(run_dir: Path, champion: Model | None) -> HeldOut:
    """Return the photos that a run's model and the serving one are compared on.

    Those that have changed or gone since the run was prepared are left out, and so are those that
    the champion was trained on: a folder that is split anew as it grows moves photos over.

    Raises:
        UserError: There is no run, its cache is gone or from an older version, or too many photos
            of the split have changed.
    """
    from training.data.cache import DatasetCache
    from training.runs import run_directory

    about = run_directory.read(run_dir)
    if about is None:
        raise UserError(f"{run_dir} is no run directory; train one first: hansang train")
    cache = DatasetCache.open(Path(about["cache"]))
    name = "test" if "test" in cache.splits else "val"
    split = cache.splits[name]
    if cache.root is None or len(split.hashes) != len(split.files):
        raise UserError(
            f"{cache.path} does not say where its photos lie; run hansang prepare on them once more"
        )
    learnt = _learnt_by(champion, cache.path.parent)
    root, left_out = cache.root, Counter[str]()
    files, truth = [], []
    with ThreadPoolExecutor(_cores(), "hash") as pool:
        contents = pool.map(_hash, [root / name for name in split.files])
        for name_of, target, wanted, content in zip(
            split.files, split.targets, split.hashes, contents, strict=True
        ):
            if content != wanted:
                left_out["gone" if content is None else "changed"] += 1
            elif content in learnt:
                left_out["the serving model was trained on it"] += 1
            else:
                files.append(root / name_of)
                truth.append(cache.labels[target])
    lost = left_out["gone"] + left_out["changed"]
    if lost > _MISSING_SHARE * len(split.files):
        raise UserError(
            f"{lost} of the {len(split.files)} {name} photos in {root} have changed since"
            f" {run_dir} was prepared; train again on what is there now"
        )
    if not files:
        raise UserError(f"no {name} photo of {root} is left to compare on: {dict(left_out)}")
    return HeldOut(name, tuple(files), tuple(truth), cache.dataset_hash, dict(+left_out))


def answers(model: Model, files: Sequence[Path], progress: Progress = no_progress) -> Answers:
    """Return a model's answer to each photo, decoded and computed as the service does."""
    from service.pixels.preprocessing import preprocess

    size = model.metadata.image_size
    labels = model.metadata.labels
    predicted: list[str] = []
    confidence: list[float] = []
    with ThreadPoolExecutor(_cores(), "decode") as pool:
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
    with tempfile.TemporaryDirectory(prefix="hansang-smoke-") as folder:
        ModelRepository(Path(folder)).publish("candidate", onnx)
        with _server(Path(folder)) as port, Classifier(f"127.0.0.1:{port}") as client:
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


def _learnt_by(champion: Model | None, caches: Path) -> frozenset[str]:
    """Return the hashes of what the serving model was trained on, if its cache is still there."""
    if champion is None:
        return frozenset()
    for path in caches.glob("*/manifest.json"):
        try:
            manifest = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError):
            continue
        if manifest.get("dataset_hash") == champion.metadata.dataset_hash:
            return frozenset(manifest["splits"]["train"].get("hashes", ()))
    return frozenset()


def _hash(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


def _cores() -> int:
    return len(os.sched_getaffinity(0))
