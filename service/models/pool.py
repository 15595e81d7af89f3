"""The loaded models: of each the version that serves and, with `keep_versions`, earlier ones.

The pool follows the repository. It loads a new version beside the old one, which still answers the
calls that it began. If the new version cannot be loaded, it is refused and the old one serves on.

repository ─► config.pbtxt changed? ─► loading (verify, open, warm up) ─► swap ─► close the old one
"""

import asyncio
import logging
from collections.abc import Callable

from service.config import ServerConfig
from service.errors import (
    InvalidArgumentError,
    NotFoundError,
    OverloadedError,
    UnavailableError,
)
from service.files import file_state
from service.memory import trim_heaps
from service.models.instance import ModelInstance
from service.models.loading import load_instance
from service.models.repository import ModelRepository
from service.observability.metrics import Metrics

logger = logging.getLogger(__name__)


class ModelPool:
    """The instances of each model, kept in step with the repository.

    Attributes:
        repository: The model repository that is followed.
        refusals: Model → why the version that should serve was refused.
        unloaded: Models that a caller unloaded, so they are not served.
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
        """The version that serves, of each model."""
        return tuple(versions[0] for versions in self._loaded.values())

    @property
    def loaded(self) -> tuple[ModelInstance, ...]:
        """Every loaded version; of each model, the one that serves comes first."""
        return tuple(instance for versions in self._loaded.values() for instance in versions)

    @property
    def loading(self) -> bool:
        """Whether a version is being loaded."""
        return self._changing.locked()

    def refusal(self, deadline_s: float) -> OverloadedError | None:
        """Return why every model would refuse a call of one image; None if one would admit it.

        Args:
            deadline_s: When the answer becomes worthless, on the clock of `time.monotonic`.
        """
        refusal = None
        for versions in self._loaded.values():
            for instance in versions:
                refusal = instance.batcher.refusal(deadline_s=deadline_s)
                if refusal is None:
                    return None
        return refusal

    def find(self, name: str, version: int = 0) -> ModelInstance:
        """Return a loaded version of a model.

        Args:
            name: Name of the model; empty for the only one.
            version: Number of the version; 0 for the one that serves.

        Raises:
            NotFoundError: It is not loaded.
            InvalidArgumentError: The name is empty, and there are several models.
            UnavailableError: No model serves yet.
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
        states = await asyncio.to_thread(self._config_states)
        if not states:
            what = f"no model {self._config.model!r}" if self._config.model else "no model"
            raise NotFoundError(
                f"{what} in the repository {self._config.repository};"
                " publish one with: hansang release RUN"
            )
        for name, state in states.items():
            async with self._changing:
                await self._follow(name, state)

    async def watch(self) -> None:
        """Follow the repository until cancelled. A version that cannot be loaded is tried once."""
        while True:
            await asyncio.sleep(self._config.poll_interval_s)
            try:
                states = await asyncio.to_thread(self._config_states)
            except Exception:
                logger.exception("cannot look at the repository %s", self._config.repository)
                continue
            for name, state in states.items():
                try:
                    async with self._changing:
                        if name not in self.unloaded:
                            await self._follow(name, state)
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
        """Load now what the repository says is to serve, even if the model was unloaded.

        Raises:
            ServiceError: There is no such model, or it cannot be served.
        """
        async with self._changing:
            await asyncio.to_thread(self.repository.serving, name)
            self.unloaded.discard(name)
            self._seen.pop(name, None)
            await self._follow(name, file_state(self._config.repository / name / "config.pbtxt"))

    async def unload_model(self, name: str) -> None:
        """Stop serving a model until it is loaded again.

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
        """Close every version once its admitted calls are answered."""
        await asyncio.gather(*(instance.batcher.close() for instance in self.loaded))
        await asyncio.gather(*self._retiring)
        self._loaded.clear()

    def _names(self) -> str:
        return ", ".join(sorted(self._loaded)) or "none"

    def _config_states(self) -> dict[str, object]:
        """Return model → a value that changes when its config.pbtxt is replaced."""
        names = [name for name in self.repository.models() if self._config.model in ("", name)]
        return {name: file_state(self._config.repository / name / "config.pbtxt") for name in names}

    async def _follow(self, name: str, state: object) -> None:
        """Load and swap in the serving version of a model, if its config.pbtxt changed.

        Raises:
            ServiceError: The version is refused.
        """
        if name in self._seen and state == self._seen[name]:
            return
        # Noted first: a refused version is not tried again until the repository changes.
        self._seen[name] = state
        try:
            version = await asyncio.to_thread(self.repository.serving, name)
            loaded = self._loaded.get(name, [])
            if loaded and loaded[0].version == version:
                self.refusals.pop(name, None)
                return
            # After a rollback the version may still be loaded.
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
        instance = await load_instance(
            name, version, repository=self.repository, config=self._config,
            metrics=self._metrics, run_failed=self._run_failed,
        )  # fmt: skip
        self._metrics.swaps.labels(name).inc()
        self._metrics.model_info.labels(name, str(version), instance.model.provider).set(1)
        return instance

    def _retire(self, instance: ModelInstance) -> None:
        """Close an instance, in the background, once its calls are answered."""
        task = asyncio.create_task(instance.batcher.close())
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)
        task.add_done_callback(lambda _: asyncio.get_running_loop().call_soon(trim_heaps))
        self._metrics.model_info.remove(
            instance.name, str(instance.version), instance.model.provider
        )
