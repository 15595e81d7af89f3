"""What a worker does with a part: its photos are read, decoded, classified, and written down.

read, a batch ahead ─► decode, in threads ─► model ─► answers/N.jsonl

Everything that an answer depends on is the server's: its pixels, its model, its order of classes.

Shapes: N batch, K classes.
"""

import json
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

# A worker of a cluster does not come by the command line, which says so as well.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
from numpy.typing import NDArray

from machine import num_cores
from photo_folder.names import printable
from service.api.classifier import likeliest
from service.client.results_file import as_json
from service.client.wire import Class, Result
from service.errors import ImageError, NotFoundError
from service.models.bucket import BucketRepository
from service.models.loading import verify_answers
from service.models.model import Model
from service.models.repository import ModelRepository
from service.models.versions import verify_labels
from service.offline.photos import Photo, Reader
from service.offline.plan import Plan, answers_file, failed_file, photos_of
from service.pixels.preprocessing import preprocess
from service.sessions.opening import CUDA
from storage import Storage, bucket_url, storage_of, temporary_folder

logger = logging.getLogger(__name__)

BATCH = 32
_BATCH_BYTES = 64 * 2**20
"""Photos of a batch that wait to be decoded, encoded."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """All that a worker is told; it finds the rest."""

    plan: Plan
    out: str
    repository: str
    device: str = "auto"


class Done(NamedTuple):
    """What became of a part."""

    photos: int
    failed: int
    worked: int
    """Photos that were read this time."""


@dataclass
class _Loaded:
    """The model, once in a process."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    of: tuple[object, ...] = ()
    model: Model | None = None


_LOADED = _Loaded()


def answer(job: Job, part: int) -> Done:
    """Classify the photos of a part that have no answer yet, and write all of its answers.

    Raises:
        UserError: The model, the photos' list or the bucket cannot be read, or the answers not be
            written; nothing is half written then.
    """
    out, plan = storage_of(job.out), job.plan
    photos = photos_of(out, plan, part)
    known = _known(out, part)
    wanted = [
        photo for photo in photos if known.get(photo.name, {"error": ""})["error"] is not None
    ]
    if wanted:
        known.update((line["photo"], line) for line in _classified(job, wanted))
        lines = [known[photo.name] for photo in photos]
        failed = [line for line in lines if line["error"] is not None]
        table = "".join(f"{printable(line['photo'])}\t{line['error']}\n" for line in failed)
        if failed:
            # First: answers that count must not have failures that are told nowhere.
            out.write(failed_file(part), table.encode())
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        # A name that is no Unicode becomes what JSON writes for it.
        out.write(answers_file(part), text.encode("utf-8", "backslashreplace"))
        if not failed:
            out.remove(failed_file(part))
    errors = sum(known[photo.name]["error"] is not None for photo in photos)
    return Done(len(photos), errors, len(wanted))


def load(job: Job) -> Model:
    """Return the model; it is fetched and loaded once in a process, however many parts follow.

    Raises:
        ServiceError: It is not there, damaged, or cannot be run here.
    """
    wish = job.plan.wish
    of = (job.repository, wish.model, wish.version, job.device)
    with _LOADED.lock:
        if _LOADED.model is None or _LOADED.of != of:
            _LOADED.model, _LOADED.of = _open(job), of
        return _LOADED.model


def _open(job: Job) -> Model:
    name, version = job.plan.wish.model, job.plan.wish.version
    url = bucket_url(job.repository)
    with temporary_folder("the model's copy") if url else nullcontext(None) as copy:
        folder = copy or Path(job.repository)
        if url is not None:
            BucketRepository(url, folder).pull_version(name, version)
        store = ModelRepository(folder)
        if version not in store.versions(name):
            raise NotFoundError(f"{folder} has no version {version} of model {name!r}")
        store.verify(name, version)
        model = Model(store.path(name, version), device=job.device)
        verify_labels(store.path(name, version), model.metadata.labels)
        model.warm_up(BATCH)
        verify_answers(store.path(name, version), model)
    return model


def _known(out: Storage, part: int) -> dict[str, dict[str, Any]]:
    """Return the lines that were written before, by photo."""
    data = out.read(answers_file(part)) or b""
    lines = (json.loads(line) for line in data.decode().split("\n") if line)
    return {line["photo"]: line for line in lines}


def _classified(job: Job, photos: Sequence[Photo]) -> Iterator[dict[str, Any]]:
    model, wish = load(job), job.plan.wish
    # A worker is a core; beside a GPU it has all of them.
    threads = num_cores() if model.provider == CUDA else 1
    pixels_of = partial(_pixels, image_size=model.metadata.image_size)
    with ThreadPoolExecutor(threads, "decode") as decoders:
        for batch, data in _read_ahead(photos):
            decoded = list(decoders.map(pixels_of, data))
            pixels = [each for each in decoded if not isinstance(each, ImageError)]
            rows_NK = iter(model.predict(np.stack(pixels)) if pixels else ())
            for photo, each in zip(batch, decoded, strict=True):
                if isinstance(each, ImageError):
                    result = Result(error=str(each), model=wish.model, model_version=wish.version)
                else:
                    row_K: NDArray[np.float32] = next(rows_NK)
                    result = Result(
                        classes=tuple(
                            Class(model.metadata.labels[index], float(row_K[index]))
                            for index in likeliest(row_K, wish.top_k)
                        ),
                        model=wish.model,
                        model_version=wish.version,
                        below_threshold=model.metadata.is_unsure(float(row_K.max())),
                    )
                yield as_json(photo.name, result)


def _pixels(data: bytes | ImageError, image_size: int) -> Pixels | ImageError:
    if isinstance(data, ImageError):
        return data
    try:
        return preprocess(data, image_size)
    except ImageError as error:
        return error
    except Exception:  # one photo must not cost the others their answers
        logger.exception("unhandled error in decoding an image of %d bytes", len(data))
        return ImageError("internal error")


def _read_ahead(photos: Sequence[Photo]) -> Iterator[tuple[list[Photo], list[bytes | ImageError]]]:
    """Yield batches with their bytes; the next one is being read meanwhile."""
    reader = Reader()
    batches = _batches(photos)
    with ThreadPoolExecutor(1, "read") as reading:
        coming = [(batch, reading.submit(reader.read, batch)) for batch in batches[:1]]
        for following in [*batches[1:], None]:
            batch, data = coming.pop()
            ready = data.result()
            if following is not None:
                coming.append((following, reading.submit(reader.read, following)))
            yield batch, ready


def _batches(photos: Sequence[Photo]) -> list[list[Photo]]:
    batches: list[list[Photo]] = []
    num_bytes = 0
    for photo in photos:
        full = (
            not batches or len(batches[-1]) == BATCH or num_bytes + photo.num_bytes > _BATCH_BYTES
        )
        if full:
            batches.append([])
            num_bytes = 0
        batches[-1].append(photo)
        num_bytes += photo.num_bytes
    return batches
