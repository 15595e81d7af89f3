"""Notices models that fail or hang, and ends the process when none works.

a run raises ─► probe ─┬─ works: only that run failed
                       └─ raises: faulty, probe on ─┬─ works: no longer faulty
                                                    └─ all are, for `fault_exit_s`: exit 70
a run, or the event loop, takes longer than `run_timeout_s` ─► exit non-zero

Time is counted in ticks. While the process is stopped (SIGSTOP, `docker pause`, a machine that
sleeps) there is no tick, and the gap counts as one. So a stopped process does not count as hanging.

Health is SERVING while one model works; a model's own readiness is what ModelReady says. A process
that cannot compute at all is useless, and an orchestrator can start a new one. After a sticky CUDA
error nothing else helps.
"""

import asyncio
import faulthandler
import logging
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from time import monotonic, sleep
from typing import Any

from service.config import ServerConfig
from service.models.instance import ModelInstance
from service.models.pool import ModelPool
from service.observability.metrics import Metrics

logger = logging.getLogger(__name__)

EXIT_FAULT = 70
"""EX_SOFTWARE of sysexits.h."""

_TICK_S = 0.25


class _Ticks:
    """Measures the time between ticks in which this process ran."""

    def __init__(self, tick_s: float) -> None:
        self.tick_s = tick_s
        self._last_s = monotonic()

    def passed_s(self) -> float:
        """Return the seconds since the last call, but at most two ticks."""
        last_s, self._last_s = self._last_s, monotonic()
        return min(self._last_s - last_s, 2 * self.tick_s)


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
        ticks = _Ticks(min(_TICK_S, self._config.run_timeout_s / 4))
        runs: dict[ModelInstance, tuple[float | None, float]] = {}
        while True:
            await asyncio.sleep(ticks.tick_s)
            passed_s, before, runs = ticks.passed_s(), runs, {}
            for instance in self._pool.loaded:
                began_s = instance.batcher.oldest_run_s()
                seen_s, seconds = before.get(instance, (None, 0.0))
                seconds = seconds + passed_s if began_s is not None and began_s == seen_s else 0.0
                runs[instance] = began_s, seconds
                if seconds > self._config.run_timeout_s:
                    self.end(
                        f"model {instance.name} version {instance.version}: a run has taken"
                        f" {seconds:.1f} s and hangs"
                    )

    async def _probe(self, instance: ModelInstance) -> None:
        """Run one image again and again until the model works, is replaced, or the process ends."""
        ticks = _Ticks(min(1.0, self._config.fault_exit_s / 4 or 0.01))
        failed_s = 0.0
        while True:
            if instance not in self._pool.loaded:
                return await self._set_fault(instance, "")
            try:
                await self._within_timeout(asyncio.to_thread(instance.model.probe))
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
            failed_s = 0.0 if self._pool.works else failed_s + ticks.passed_s()
            if not self._pool.works and failed_s >= self._config.fault_exit_s:
                return self.end(f"model {instance.name}: its runs fail: {instance.fault}")
            await asyncio.sleep(ticks.tick_s)

    async def _within_timeout(self, work: Coroutine[Any, Any, None]) -> None:
        """Await something; raise TimeoutError if it takes longer than `run_timeout_s`."""
        ticks = _Ticks(min(_TICK_S, self._config.run_timeout_s / 4))
        task, seconds = asyncio.ensure_future(work), 0.0
        while not task.done():
            if seconds > self._config.run_timeout_s:
                raise TimeoutError
            await asyncio.wait({task}, timeout=ticks.tick_s)
            seconds += ticks.passed_s()
        await task

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

    A thread measures how long the loop has not run. If the loop's thread computes and never
    releases the GIL, that thread cannot run; then the system measures the CPU time of the process
    (SIGPROF). A thread that sleeps and holds the GIL is only noticed by the orchestrator's probes.
    """
    beats, ended = [0], threading.Event()
    tick_s = min(_TICK_S, timeout_s / 4)

    def watch() -> None:
        ticks, seen, silent_s = _Ticks(tick_s), 0, 0.0
        while not ended.is_set():
            sleep(tick_s)
            silent_s = silent_s + ticks.passed_s() if beats[0] == seen else 0.0
            seen = beats[0]
            if silent_s > timeout_s:
                faulthandler.dump_traceback(file=sys.__stderr__ or 2)
                os._exit(1)

    on_main = threading.current_thread() is threading.main_thread()
    if on_main:
        faulthandler.register(signal.SIGPROF, file=sys.__stderr__ or 2, chain=True)
    threading.Thread(target=watch, name="watchdog", daemon=True).start()
    try:
        while True:
            beats[0] += 1
            if on_main:
                signal.setitimer(signal.ITIMER_PROF, timeout_s * (os.cpu_count() or 1))
            await asyncio.sleep(min(1.0, timeout_s / 4))
    finally:
        ended.set()
        if on_main:
            signal.setitimer(signal.ITIMER_PROF, 0)
