"""The engines that give parts to workers, and give a part again when its worker dies.

Both are asked for little: a function, numbers, and what became of each. They are extras, imported
when they are wanted.
"""

import os
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, TypeVar

from terminal import UserError

T = TypeVar("T")

RETRIES = 3
"""How often a part is given again after its worker died or raised."""
AHEAD = 3
"""Parts in the engine for each worker: enough that none waits, and few enough for any plan."""
_WAIT_S = 60.0


class Workers(Protocol):
    """Workers that were found."""

    def run(
        self, work: Callable[[int], T], parts: Sequence[int]
    ) -> Iterator[tuple[int, T | Exception]]:
        """Yield each part with what `work` made of it, or what it failed with, as they end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where the workers are.

    Attributes:
        cluster: The address of a cluster; empty for workers on this machine.
        workers: How many are started here.
        gpu: Whether each needs a GPU of its own; asked of Ray, which knows them.
    """

    cluster: str = ""
    workers: int = 1
    gpu: bool = False


def engine(name: str, place: Place) -> AbstractContextManager[Workers]:
    """Return the workers of an engine, `dask` or `ray`.

    Raises:
        UserError: It is not installed, or no worker is found.
    """
    return _ray(place) if name == "ray" else _dask(place)


@contextmanager
def _dask(place: Place) -> Iterator[Workers]:
    try:
        import dask
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise _missing("dask", error) from error
    # A worker that dies in a part may have died of it: the part is given to few others.
    with dask.config.set({"distributed.scheduler.allowed-failures": RETRIES}):
        local = None
        if not place.cluster:
            # Processes, since a model that dies takes its process along; no page on a port.
            local = LocalCluster(
                n_workers=place.workers, threads_per_worker=1, processes=True,
                dashboard_address=None, host="127.0.0.1",
            )  # fmt: skip
        try:
            try:
                client = Client(local or place.cluster, timeout=_WAIT_S)
                client.wait_for_workers(1, timeout=_WAIT_S)
            except (OSError, TimeoutError, ValueError) as error:
                raise UserError(f"no workers of Dask at {place.cluster}: {error}") from error
            with client:
                yield _Dask(client)
        finally:
            if local is not None:
                local.close()


class _Dask:
    def __init__(self, client: Any) -> None:
        self._client = client

    def run(
        self, work: Callable[[int], T], parts: Sequence[int]
    ) -> Iterator[tuple[int, T | Exception]]:
        from distributed import as_completed

        left = iter(parts)
        # Of two commands on one cluster, none must get the other's results.
        mine = f"hansang-{uuid.uuid4().hex}"

        def begin(count: int) -> list[Any]:
            return [
                self._client.submit(work, part, key=f"{mine}-{part}", retries=RETRIES)
                for part in islice(left, count)
            ]

        going: Any = as_completed(begin(self._most()))
        for future in going:
            part = int(future.key.rsplit("-", 1)[1])
            if future.status in ("cancelled", "lost"):
                raise UserError("the cluster is gone; the same command goes on")
            error = future.exception()
            yield part, future.result() if error is None else error
            # Workers that came meanwhile get work, too.
            for more in begin(max(self._most() - going.count(), 1)):
                going.add(more)

    def _most(self) -> int:
        threads: dict[str, int] = self._client.nthreads()
        return AHEAD * max(sum(threads.values()), 1)


@contextmanager
def _ray(place: Place) -> Iterator[Workers]:
    # It phones home unless it is told not to before it is imported.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise _missing("ray", error) from error
    here: dict[str, Any] = {"address": place.cluster}
    if not place.cluster:
        # Nothing large is put into its store: answers are written by the workers.
        here = {"address": "local", "num_cpus": place.workers, "object_store_memory": 100 * 2**20}
    # It says on stdout that a worker died, and stdout is for results.
    with redirect_stdout(sys.stderr):
        try:
            ray.init(**here, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UserError(f"no workers of Ray at {place.cluster}: {error}") from error
        try:
            yield _Ray(ray, place.gpu)
        finally:
            ray.shutdown()


class _Ray:
    def __init__(self, ray: Any, gpu: bool) -> None:
        self._ray = ray
        self._gpus = 1 if gpu else 0

    def run(
        self, work: Callable[[int], T], parts: Sequence[int]
    ) -> Iterator[tuple[int, T | Exception]]:
        def part_of(part: int) -> T:  # its name is what Ray's tools show
            return work(part)

        remote = self._ray.remote(
            num_cpus=1, num_gpus=self._gpus, max_retries=RETRIES, retry_exceptions=True
        )(part_of)
        left = iter(parts)
        going: dict[Any, int] = {}
        while True:
            most = AHEAD * max(int(self._ray.cluster_resources().get("CPU", 1)), 1)
            going.update({remote.remote(part): part for part in islice(left, most - len(going))})
            if not going:
                return
            done, _ = self._ray.wait(list(going), num_returns=1)
            for reference in done:
                part = going.pop(reference)
                try:
                    yield part, self._ray.get(reference)
                except Exception as error:
                    yield part, error


def _missing(name: str, error: ImportError) -> UserError:
    return UserError(
        f"--engine {name} needs what is not installed ({error.name}): pip install 'hansang[{name}]'"
    )
