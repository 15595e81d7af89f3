"""`hansang.v1.Classifier`: what a call means, in terms of one loaded version.

    images ─► decode, in threads ─► batcher ─► the likeliest classes
       └─ a bad one gets its own Status, and spares its neighbours

`ModelPool` says which version that is. It follows the repository: a new version is loaded and
warmed up beside the old one, which answers the calls that it has begun.

Shapes: H height, W width, C channels, K classes.
"""

import asyncio
import logging
import math
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from google.rpc.status_pb2 import Status
from grpc import StatusCode
from numpy.typing import NDArray

from service.batcher import Batcher
from service.config import MAX_IMAGES_PER_CALL, ServerConfig, num_cores
from service.errors import ImageError, InvalidArgumentError, NotFoundError, UnavailableError
from service.metrics import Metrics
from service.model import CUDA, Model
from service.model_store import ModelStore
from service.pb import classifier_pb2 as pb
from service.pb import classifier_pb2_grpc as pb_grpc
from service.preprocessing import preprocess

DEFAULT_TOP_K = 5
_NEVER_SEEN = object()

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ModelInstance:
    """One loaded version of a model, and the batcher before it."""

    name: str
    version: int
    model: Model
    batcher: Batcher


class ModelPool:
    """The instance that serves each model, kept in step with the repository."""

    def __init__(self, config: ServerConfig, metrics: Metrics) -> None:
        self._config = config
        self._metrics = metrics
        self._store = ModelStore(config.repository)
        self._serving: dict[str, ModelInstance] = {}
        self._seen: dict[str, object] = {}
        self._retiring: set[asyncio.Task[None]] = set()

    @property
    def instances(self) -> tuple[ModelInstance, ...]:
        """What serves now."""
        return tuple(self._serving.values())

    def find(self, name: str) -> ModelInstance:
        """Return what serves the model now; an empty name means the only one.

        Raises:
            NotFoundError: No such model is served.
            InvalidArgumentError: The name is empty, and there are several models.
            UnavailableError: Nothing serves yet.
        """
        if not self._serving:
            raise UnavailableError("the service is starting; wait until its health is SERVING")
        names = ", ".join(sorted(self._serving))
        if not name:
            if len(self._serving) > 1:
                raise InvalidArgumentError(f"model: name one of {names}")
            return next(iter(self._serving.values()))
        if name not in self._serving:
            raise NotFoundError(f"no model {name!r} is served; there is {names}")
        return self._serving[name]

    async def load(self) -> None:
        """Load every model that is to be served.

        Raises:
            NotFoundError: The repository has none.
            ServiceError: One cannot be served.
        """
        looks = await asyncio.to_thread(self._look)
        if not looks:
            what = f"no model {self._config.model!r}" if self._config.model else "no model"
            raise NotFoundError(
                f"{what} in the repository {self._config.repository};"
                " publish one with: hansang release RUN"
            )
        for name, look in looks.items():
            await self._follow(name, look)

    async def watch(self) -> None:
        """Follow the repository until cancelled. What cannot be loaded is refused, once."""
        while True:
            await asyncio.sleep(self._config.poll_interval_s)
            try:
                looks = await asyncio.to_thread(self._look)
            except Exception:
                logger.exception("cannot look at the repository %s", self._config.repository)
                continue
            for name, look in looks.items():
                try:
                    await self._follow(name, look)
                except Exception as error:
                    self._metrics.swap_failures.labels(name).inc()
                    serving = self._serving.get(name)
                    logger.error(
                        "model %s: the new version is refused, %s: %s",
                        name,
                        f"version {serving.version} serves on" if serving else "nothing serves",
                        error,
                    )

    async def close(self) -> None:
        """End every instance, once what was admitted is answered."""
        await asyncio.gather(*(instance.batcher.close() for instance in self._serving.values()))
        await asyncio.gather(*self._retiring)
        self._serving.clear()

    def _look(self) -> dict[str, object]:
        """Return the state of each model's config.pbtxt: it is replaced, never written into."""
        names = [name for name in self._store.models() if self._config.model in ("", name)]
        return {name: _state(self._config.repository / name / "config.pbtxt") for name in names}

    async def _follow(self, name: str, look: object) -> None:
        if look == self._seen.get(name, _NEVER_SEEN):
            return
        # Noted first: a version that is refused is not tried again until the repository changes.
        self._seen[name] = look
        version = await asyncio.to_thread(self._store.serving, name)
        old = self._serving.get(name)
        if old is not None and old.version == version:
            return
        model = await asyncio.to_thread(self._open, name, version)
        workers = self._config.workers or (1 if model.provider == CUDA else num_cores())
        batcher = Batcher(
            model.predict,
            metrics=self._metrics,
            max_batch=self._config.max_batch,
            max_delay_s=self._config.max_delay_ms / 1000,
            queue_size=self._config.queue_size,
            workers=workers,
        )
        self._serving[name] = ModelInstance(
            name=name, version=version, model=model, batcher=batcher
        )
        self._metrics.model_version.labels(name).set(version)
        logger.info("model %s: version %d serves on %s", name, version, model.provider)
        if old is not None:
            task = asyncio.create_task(old.batcher.close())
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    def _open(self, name: str, version: int) -> Model:
        model = Model(
            self._store.path(name, version),
            device=self._config.device,
            intra_op_threads=self._config.intra_op_threads,
        )
        model.warm_up(self._config.max_batch)
        return model


def _state(path: Path) -> object:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return (stat.st_mtime_ns, stat.st_ino, stat.st_size)


class Classifier(pb_grpc.ClassifierServicer):
    """Answers from whatever instance serves when a call arrives, and from that one to its end."""

    def __init__(
        self, find: Callable[[str], ModelInstance], threads: Executor, metrics: Metrics
    ) -> None:
        self._find = find
        self._threads = threads
        self._metrics = metrics

    async def Classify(  # noqa: N802
        self, request: pb.ClassifyRequest, context: Any
    ) -> pb.ClassifyResponse:
        """Classify 1 to 64 images; see the proto for what it promises."""
        num_images = len(request.images)
        if not 1 <= num_images <= MAX_IMAGES_PER_CALL:
            raise InvalidArgumentError(
                f"images: 1 to {MAX_IMAGES_PER_CALL} are accepted in a call, not {num_images}"
            )
        if request.top_k < 0:
            raise InvalidArgumentError(f"top_k: must not be negative, is {request.top_k}")
        instance = self._find(request.model)
        remaining_s = context.time_remaining()
        deadline_s = math.inf if remaining_s is None else monotonic() + remaining_s
        metadata = instance.model.metadata
        # Places are taken before decoding: under overload it would be the first work to pile up.
        with instance.batcher.admit(num_images):
            decoded = await asyncio.gather(
                *(self._decode(data, metadata.image_size) for data in request.images)
            )
            images = [image for image in decoded if not isinstance(image, Status)]
            rows = iter(await instance.batcher.submit(images, deadline_s=deadline_s))
        top_k = request.top_k or DEFAULT_TOP_K
        return pb.ClassifyResponse(
            results=[
                pb.ImageResult(error=image)
                if isinstance(image, Status)
                else pb.ImageResult(classes=_likeliest(next(rows), metadata.labels, top_k))
                for image in decoded
            ],
            model=instance.name,
            model_version=instance.version,
        )

    async def GetModel(self, request: pb.GetModelRequest, context: Any) -> pb.Model:  # noqa: N802, ARG002
        """Describe what serves now."""
        instance = self._find(request.model)
        metadata = instance.model.metadata
        return pb.Model(
            name=instance.name,
            version=instance.version,
            labels=metadata.labels,
            image_size_px=metadata.image_size,
            provider=instance.model.provider,
            val_top1=metadata.val_top1,
            test_top1=metadata.test_top1,
            run_id=metadata.run_id,
            properties=instance.model.properties,
        )

    async def _decode(self, data: bytes, image_size: int) -> NDArray[np.uint8] | Status:
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._threads, self._pixels, data, image_size
            )
        except ImageError as error:
            self._metrics.bad_images.inc()
            return Status(code=_number(error.code), message=str(error))
        except Exception:
            self._metrics.bad_images.inc()
            logger.exception("unhandled error in decoding an image of %d bytes", len(data))
            return Status(code=_number(StatusCode.INTERNAL), message="internal error")

    def _pixels(self, data: bytes, image_size: int) -> NDArray[np.uint8]:
        with self._metrics.decode_seconds.time():
            return preprocess(data, image_size)


def _number(code: StatusCode) -> int:
    number: int = code.value[0]
    return number


def _likeliest(row_K: NDArray[np.float32], labels: tuple[str, ...], top_k: int) -> list[pb.Class]:
    # A stable sort: equal probabilities keep the order of the labels in every batch.
    order = np.argsort(-row_K, kind="stable")[:top_k]
    return [
        pb.Class(label=labels[index], probability=row_K[index], index=index)
        for index in order.tolist()
    ]
