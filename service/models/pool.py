"""What is loaded: for each model the version that serves, and on request some that served before.

The pool follows the repository. A new version is loaded, checked and warmed up beside the old one,
which answers the calls that it has begun; a version that fails any of it is refused, and the old
one serves on.
"""

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import TypeVar

from service.batching.batcher import Batcher
from service.batching.decoder import Pixels, decoded
from service.config import ServerConfig
from service.errors import (
    InvalidArgumentError,
    NotFoundError,
    OverloadedError,
    ServiceError,
    UnavailableError,
)
from service.files import file_state
from service.memory import trim_heaps
from service.models.cuda import SESSIONS_PER_MODEL
from service.models.instance import ModelInstance
from service.models.model import CUDA, Model
from service.models.repository import ModelRepository
from service.observability.metrics import Metrics

T = TypeVar("T")

logger = logging.getLogger(__name__)


class ModelPool:
    """The instances of each model, kept in step with the repository.

    Attributes:
        repository: The model repository that is followed.
        refusals: Model → why the version that should serve does not.
        unloaded: Models that are not served, though the repository has them.
    """

    def __init__(
        self,
        config: ServerConfig,
        metrics: Metrics,
        *,
        run_failed: Callable[[ModelInstance], None] = lambda _: None,
    ) -> None:
        self.repository = ModelRepository(config.repository)
        self._config = config
        self._metrics = metrics
        self._run_failed = run_failed
        self._loaded: dict[str, list[ModelInstance]] = {}
        self._seen: dict[str, object] = {}
        self.refusals: dict[str, str] = {}
        self.unloaded: set[str] = set()
        self._retiring: set[asyncio.Task[None]] = set()
        self._changing = asyncio.Lock()

    @property
    def instances(self) -> tuple[ModelInstance, ...]:
        """What serves now, one version of each model."""
        return tuple(versions[0] for versions in self._loaded.values())

    @property
    def loaded(self) -> tuple[ModelInstance, ...]:
        """Every version that answers; of each model the one that serves first."""
        return tuple(instance for versions in self._loaded.values() for instance in versions)

    @property
    def loading(self) -> bool:
        """Whether a version is being loaded."""
        return self._changing.locked()

    def refusal(self, deadline_s: float) -> OverloadedError | None:
        """Return why no model could answer a call of one image by then; None if one could.

        Args:
            deadline_s: When the answer loses its worth, on the clock of `time.monotonic`.
        """
        refusal = None
        for versions in self._loaded.values():
            for instance in versions:
                refusal = instance.batcher.refusal(deadline_s=deadline_s)
                if refusal is None:
                    return None
        return refusal

    def find(self, name: str, version: int = 0) -> ModelInstance:
        """Return a version of a model.

        Args:
            name: Empty for the only one.
            version: 0 for the one that serves.

        Raises:
            NotFoundError: It is not loaded.
            InvalidArgumentError: The name is empty, and there are several models.
            UnavailableError: Nothing serves yet.
        """
        if not self._loaded and not self.unloaded:
            raise UnavailableError("the service is starting; wait until its health is SERVING")
        if not name:
            if len(self._loaded) != 1:
                raise InvalidArgumentError(f"model: name one of {self._names()}")
            (name,) = self._loaded
        if name not in self._loaded:
            raise NotFoundError(f"no model {name!r} is served; there is {self._names()}")
        versions = self._loaded[name]
        for instance in versions:
            if version in (0, instance.version):
                return instance
        there = ", ".join(str(instance.version) for instance in versions)
        raise NotFoundError(f"model {name!r} has no version {version} loaded; there is {there}")

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
            async with self._changing:
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
                    async with self._changing:
                        if name not in self.unloaded:
                            await self._follow(name, look)
                except Exception as error:
                    self._metrics.swap_failures.labels(name).inc()
                    serving = self._loaded.get(name)
                    logger.error(
                        "model %s: the new version is refused, %s: %s",
                        name,
                        f"version {serving[0].version} serves on" if serving else "nothing serves",
                        error,
                    )

    async def load_model(self, name: str) -> None:
        """Load what the repository says serves, now; also a model that was unloaded.

        Raises:
            ServiceError: There is no such model, or it cannot be served.
        """
        async with self._changing:
            await asyncio.to_thread(self.repository.serving, name)
            self.unloaded.discard(name)
            self._seen.pop(name, None)
            await self._follow(name, file_state(self._config.repository / name / "config.pbtxt"))

    async def unload_model(self, name: str) -> None:
        """Serve a model no more, until it is loaded again.

        Raises:
            NotFoundError: It is not served.
        """
        async with self._changing:
            if name not in self._loaded:
                raise NotFoundError(f"no model {name!r} is served")
            self.unloaded.add(name)
            for instance in self._loaded.pop(name):
                self._retire(instance)
            logger.info("model %s: unloaded", name)

    async def close(self) -> None:
        """End every instance, once what was admitted is answered."""
        await asyncio.gather(*(instance.batcher.close() for instance in self.loaded))
        await asyncio.gather(*self._retiring)
        self._loaded.clear()

    def _names(self) -> str:
        return ", ".join(sorted(self._loaded)) or "none"

    def _look(self) -> dict[str, object]:
        """Return the state of each model's config.pbtxt: it is replaced, never written into."""
        names = [name for name in self.repository.models() if self._config.model in ("", name)]
        return {name: file_state(self._config.repository / name / "config.pbtxt") for name in names}

    async def _follow(self, name: str, look: object) -> None:
        if look == self._seen.get(name, self):  # the pool itself is no look
            return
        # Noted first: a version that is refused is not tried again until the repository changes.
        self._seen[name] = look
        try:
            version = await asyncio.to_thread(self.repository.serving, name)
            loaded = self._loaded.get(name, [])
            if loaded and loaded[0].version == version:
                self.refusals.pop(name, None)
                return
            # A version that is still loaded comes back at once.
            again = [instance for instance in loaded if instance.version == version]
            instance = again[0] if again else await self._open(name, version)
        except Exception as error:
            self.refusals[name] = str(error)
            raise
        self.refusals.pop(name, None)
        others = [other for other in loaded if other is not instance]
        self._loaded[name] = [instance, *others[: self._config.keep_versions - 1]]
        self._metrics.model_version.labels(name).set(version)
        logger.info("model %s: version %d serves on %s", name, version, instance.model.provider)
        for other in others[self._config.keep_versions - 1 :]:
            self._retire(other)

    async def _open(self, name: str, version: int) -> ModelInstance:
        config = self._config

        def open_() -> tuple[Model, float]:
            self.repository.verify(name, version)
            model = Model(
                self.repository.path(name, version),
                device=config.device,
                intra_op_threads=config.intra_op_threads,
            )
            self.repository.verify_labels(name, version, model.metadata.labels)
            seconds = model.warm_up(config.max_batch)
            # What was needed to load is three times the model.
            trim_heaps()
            return model, seconds

        model, seconds_per_image = await _in_thread(open_)
        instance: ModelInstance
        batcher = Batcher(
            model.predict,
            metrics=self._metrics,
            max_batch=config.max_batch,
            max_delay_s=config.max_delay_ms / 1000,
            queue_size=config.queue_size,
            workers=config.runs or (SESSIONS_PER_MODEL if model.provider == CUDA else config.cores),
            seconds_per_image=seconds_per_image,
            failed=lambda: self._run_failed(instance),
            # A device must not wait for photos: there other threads decode.
            decode=None if model.provider == CUDA else self._decoding(model.metadata.image_size),
        )
        instance = ModelInstance(name=name, version=version, model=model, batcher=batcher)
        self._metrics.swaps.labels(name).inc()
        self._metrics.model_info.labels(name, str(version), model.provider).set(1)
        return instance

    def _decoding(self, image_size: int) -> Callable[[bytes], Pixels | ServiceError]:
        return lambda data: decoded(data, image_size, self._metrics)

    def _retire(self, instance: ModelInstance) -> None:
        """Let an instance end when it has answered what it took."""
        task = asyncio.create_task(instance.batcher.close())
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)
        task.add_done_callback(lambda _: asyncio.get_running_loop().call_soon(trim_heaps))
        self._metrics.model_info.remove(
            instance.name, str(instance.version), instance.model.provider
        )


async def _in_thread(work: Callable[[], T]) -> T:
    """Run in a thread that the process does not wait for at its end.

    A slow load must not hold up a SIGTERM. onnxruntime lets go of the GIL while it creates a
    session: calls that are being served meanwhile wait no longer than 25 ms for it (measured with
    ResNet18 on 2 cores, where the load takes 200 ms).
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(set_outcome: Callable[[T], None] | Callable[[Exception], None], value: T) -> None:
        if not done.done():
            set_outcome(value)  # type: ignore[arg-type]

    def run() -> None:
        try:
            outcome = (done.set_result, work())
        except Exception as error:
            outcome = (done.set_exception, error)  # type: ignore[assignment]
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, *outcome)

    threading.Thread(target=run, name="load", daemon=True).start()
    return await done
