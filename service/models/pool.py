"""The loaded models: of each the version that serves and, with `keep_versions`, earlier ones.

The pool loads a new version beside the old one, which still answers the calls that it began. If it
cannot be loaded, the old one serves on; at the start, the newest version that loads serves.

repository ─► files changed? ─► loading (verify, open, warm up) ─► swap ─► close the old one
"""

import asyncio
import logging
from collections.abc import Callable, Container

from service.config import ServerConfig
from service.errors import InvalidArgumentError, NotFoundError, OverloadedError, UnavailableError
from service.memory import trim_heaps
from service.models.instance import ModelInstance
from service.models.loading import load_instance
from service.models.repository import ModelRepository
from service.observability.metrics import Metrics
from service.pixels.budget import Budget

logger = logging.getLogger(__name__)


class ModelPool:
    """The instances of each model, kept in step with the repository.

    Attributes:
        repository: The model repository that is followed.
        refusals: Model → why it is refused, or that it has left the repository.
        unloaded: Models that a caller unloaded, so they are not served.
    """

    def __init__(
        self,
        config: ServerConfig,
        metrics: Metrics,
        budget: Budget,
        *,
        run_failed: Callable[[ModelInstance], None] = lambda _: None,
    ) -> None:
        self.repository = ModelRepository(config.repository)
        self._config = config
        self._metrics = metrics
        self._budget = budget
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
    def works(self) -> bool:
        """Whether a model can answer, or all were unloaded on purpose."""
        return not self._loaded or any(not instance.fault for instance in self.instances)

    def refusal(self, deadline_s: float) -> OverloadedError | None:
        """Return why every model would refuse a call of one image; None if one would admit it.

        The call has not said yet which model it wants. A refusal counts as one image.

        Args:
            deadline_s: When the answer becomes worthless, on the clock of `time.monotonic`.
        """
        refusal = None
        for versions in self._loaded.values():
            for instance in versions:
                refusal = instance.batcher.refusal(deadline_s=deadline_s)
                if refusal is None:
                    return None
        if refusal is not None:
            self._metrics.rejected_images.labels(refusal.reason).inc()
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
        """Load every model that is to be served, or the newest version of it that loads.

        Raises:
            NotFoundError: The repository has none.
            ServiceError: None can be served.
        """
        states = await asyncio.to_thread(self._states)
        if not states:
            what = f"no model {self._config.model!r}" if self._config.model else "no model"
            raise NotFoundError(
                f"{what} in the repository {self._config.repository};"
                " hansang release RUN publishes one, where models are trained"
            )
        errors = [await self._try(name, state) for name, state in states.items()]
        if not self._loaded:
            raise next(error for error in errors if error)

    async def watch(self) -> None:
        """Follow the repository until cancelled; try what was refused when its files change."""
        root = self._config.repository
        while True:
            await asyncio.sleep(self._config.poll_interval_s)
            try:
                states = await asyncio.to_thread(self._states)
            except OSError as error:
                self._note_gone({}, f"the repository {root} cannot be read: {error}")
                continue
            gone = "it is no longer in" if root.is_dir() else "there is no longer a"
            self._note_gone(states, f"{gone} repository {root}")
            for name, state in states.items():
                await self._try(name, state)

    async def load_model(self, name: str) -> None:
        """Load now what the repository says is to serve, even if the model was unloaded.

        Raises:
            ServiceError: There is no such model, or it cannot be served.
        """
        async with self._changing:
            await asyncio.to_thread(self.repository.serving, name)
            self._seen.pop(name, None)
            await self._follow(name, await asyncio.to_thread(self.repository.state, name))
            # Not before: a model that is being loaded is not there yet, and nor is one that failed.
            self.unloaded.discard(name)

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

    def _states(self) -> dict[str, object]:
        """Return model → a value that changes with its files."""
        names = [name for name in self.repository.models() if self._config.model in ("", name)]
        return {name: self.repository.state(name) for name in names}

    async def _try(self, name: str, state: object) -> Exception | None:
        """Call `_follow` unless the model was unloaded; return why its version is refused, or None.

        If no version is loaded then, the newest one that loads serves instead.
        """
        async with self._changing:
            if name in self.unloaded:
                return None
            before = self.refusals.get(name)
            try:
                await self._follow(name, state)
            except Exception as error:
                if name not in self._loaded:
                    await self._fall_back(name)
                if str(error) != before:  # files that still arrive are tried again and again
                    self._metrics.swap_failures.labels(name).inc()
                    serving = self._loaded.get(name)
                    logger.error(
                        "model %s: the version that should serve is refused, %s: %s",
                        name,
                        f"version {serving[0].version} serves on" if serving else "nothing serves",
                        error,
                    )
                return error
        return None

    async def _follow(self, name: str, state: object) -> None:
        """Load and swap in the serving version of a model, if its files changed.

        Raises:
            Exception: The version is refused.
        """
        if name in self._seen and state == self._seen[name]:
            return
        # Noted first: a refused version is not tried again until its files change.
        self._seen[name] = state
        try:
            version = await asyncio.to_thread(self.repository.serving, name)
            loaded = self._loaded.get(name, [])
            # After a rollback the version may still be loaded.
            again = [instance for instance in loaded if instance.version == version]
            instance = again[0] if again else await self._open(name, version)
        except Exception as error:
            self._set_refusal(name, str(error))
            raise
        self._set_refusal(name, "")
        if not loaded or instance is not loaded[0]:
            self._swap_in(instance)

    async def _fall_back(self, name: str) -> None:
        """Load the newest version of a model that can be loaded, if there is one."""
        for version in await asyncio.to_thread(self.repository.fallbacks, name):
            try:
                instance = await self._open(name, version)
            except Exception as error:
                logger.warning("model %s: nor does version %d load: %s", name, version, error)
            else:
                self._swap_in(instance)
                return

    def _swap_in(self, instance: ModelInstance) -> None:
        name, keep = instance.name, self._config.keep_versions
        others = [other for other in self._loaded.get(name, ()) if other is not instance]
        self._loaded[name] = [instance, *others[: keep - 1]]
        self._metrics.model_version.labels(name).set(instance.version)
        logger.info(
            "model %s: version %d serves on %s in %s",
            name, instance.version, instance.model.provider, instance.model.precision,
        )  # fmt: skip
        for other in others[keep - 1 :]:
            self._retire(other)

    def _note_gone(self, there: Container[str], reason: str) -> None:
        """Log once that a loaded model has left the repository; it serves on."""
        for name in self._loaded.keys() | self.refusals.keys():
            if name in there:
                continue
            # Forgotten, so that it is loaded again if it comes back unchanged.
            self._seen.pop(name, None)
            if name not in self._loaded:
                self._set_refusal(name, "")
            elif self.refusals.get(name) != reason:
                self._set_refusal(name, reason)
                logger.warning("model %s: %s; what is loaded serves on", name, reason)

    def _set_refusal(self, name: str, reason: str) -> None:
        """Note why a model's version in the repository does not serve; empty: it does."""
        if reason:
            self.refusals[name] = reason
        elif self.refusals.pop(name, None) and name in self._loaded:
            logger.info("model %s: what the repository says serves again", name)
        self._metrics.out_of_step.labels(name).set(bool(reason))

    async def _open(self, name: str, version: int) -> ModelInstance:
        instance = await load_instance(
            name, version, repository=self.repository, config=self._config,
            metrics=self._metrics, budget=self._budget, run_failed=self._run_failed,
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
        labels = instance.name, str(instance.version), instance.model.provider
        self._metrics.model_info.remove(*labels)
