"""Notices models that fail or hang, and ends the process when none works.

a run raises ─► probe ─┬─ works: only that run failed
                       └─ raises: faulty, probe on ─┬─ works: no longer faulty
                                                    └─ all are, for `fault_exit_s`: exit 70
a run, or the event loop, takes longer than `run_timeout_s` ─► exit non-zero

Health is SERVING while one model works; a model's own readiness is what ModelReady says. A process
that cannot compute at all is useless, and an orchestrator can start a new one. After a sticky CUDA
error nothing else helps.
"""

import asyncio
import faulthandler
import logging
import sys
from collections.abc import Awaitable, Callable
from time import monotonic

from service.config import ServerConfig
from service.models.instance import ModelInstance
from service.models.pool import ModelPool
from service.observability.metrics import Metrics

logger = logging.getLogger(__name__)

EXIT_FAULT = 70
"""EX_SOFTWARE of sysexits.h."""

_TICK_S = 0.25


class Watchdog:
    """Watches the runs of every model. Belongs to one event loop.

    Attributes:
        fatal: Future of the reason why the process should end.
    """

    def __init__(
        self,
        config: ServerConfig,
        metrics: Metrics,
        pool: ModelPool,
        changed: Callable[[], Awaitable[None]],
    ) -> None:
        """Begin with nothing to watch.

        Args:
            config: How long a run may take, and a fault may last.
            metrics: Where faults are counted.
            pool: The models.
            changed: Called when a model fails, or works again.
        """
        self._config = config
        self._metrics = metrics
        self._pool = pool
        self._changed = changed
        self._probing: dict[ModelInstance, asyncio.Task[None]] = {}
        self.fatal: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def run_failed(self, instance: ModelInstance) -> None:
        """Count a run that raised, and probe the model."""
        self._metrics.failed_runs.labels(instance.name).inc()
        if instance not in self._probing:
            task = asyncio.create_task(self._probe(instance))
            self._probing[instance] = task
            task.add_done_callback(lambda _: self._probing.pop(instance, None))

    async def watch(self) -> None:
        """Check for runs that hang, until cancelled."""
        while True:
            await asyncio.sleep(min(_TICK_S, self._config.run_timeout_s / 4))
            for instance in self._pool.loaded:
                seconds = instance.batcher.longest_run_s()
                if seconds > self._config.run_timeout_s:
                    self.end(
                        f"model {instance.name} version {instance.version}: a run has taken"
                        f" {seconds:.1f} s and hangs"
                    )

    async def _probe(self, instance: ModelInstance) -> None:
        """Run one image again and again until the model works, is replaced, or the process ends."""
        since_s = monotonic()
        while True:
            if instance not in self._pool.loaded:
                return await self._set_fault(instance, "")
            try:
                async with asyncio.timeout(self._config.run_timeout_s):
                    await asyncio.to_thread(instance.model.probe)
            except TimeoutError:
                return self.end(f"model {instance.name}: a probe hangs")
            except Exception as error:
                if not instance.fault:
                    logger.error("model %s: its runs fail: %s", instance.name, error)
                    await self._set_fault(instance, str(error))
            else:
                if instance.fault:
                    logger.warning("model %s: it works again", instance.name)
                    await self._set_fault(instance, "")
                return None
            if self._pool.works:
                since_s = monotonic()
            elif monotonic() - since_s >= self._config.fault_exit_s:
                return self.end(f"model {instance.name}: its runs fail: {instance.fault}")
            await asyncio.sleep(min(1.0, self._config.fault_exit_s / 4 or 0.01))

    async def _set_fault(self, instance: ModelInstance, fault: str) -> None:
        self._metrics.faulty_models.inc(bool(fault) - bool(instance.fault))
        instance.fault = fault
        await self._changed()

    def end(self, reason: str) -> None:
        """Log the reason and resolve `fatal`; the process then ends itself."""
        if not self.fatal.done():
            logger.critical("%s; the process ends, for its orchestrator to start it anew", reason)
            self.fatal.set_result(reason)


async def watch_event_loop(timeout_s: float) -> None:
    """End the process when the event loop hangs for `timeout_s`, with every stack on stderr.

    This works even if the GIL is never released: faulthandler's timer is a thread without it.
    """
    try:
        while True:
            faulthandler.dump_traceback_later(timeout_s, exit=True, file=sys.__stderr__ or 2)
            await asyncio.sleep(min(1.0, timeout_s / 4))
    finally:
        faulthandler.cancel_dump_traceback_later()
