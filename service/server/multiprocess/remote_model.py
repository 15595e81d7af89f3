"""The models as a front end sees them: they are loaded, and run, in another process.

    engine ─► RemoteBatcher.submit ─► pixels into shared memory, RUN ─► the models' process batches
                                      over all front ends ─► ROWS

`RemotePool` has what engine and servicers ask of `pool.ModelPool`, and follows what the models'
process tells. A version that is swapped out is released once nothing here needs it any more.

Shapes: H height, W width, C channels, K classes.
"""

import asyncio
import itertools
import json
import math
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from service.batching.admission import Admission
from service.batching.batcher import Image, Row, Runs
from service.batching.priority_queue import Priority
from service.config import ServerConfig
from service.errors import ServiceError
from service.models.instance import ModelInstance, Statistics
from service.models.metadata import ModelMetadata
from service.models.pool import ModelPool
from service.observability.metrics import Metrics
from service.observability.tracing import Stages
from service.server.multiprocess.channel import Kind, Link, Slots, raised

RUN = struct.Struct("<QIdBH")
"""Number of the call, of the version, deadline (`time.monotonic`, the same in every process of a
machine), whether it is bulk, number of images; their places (`<I`) follow."""

ROWS = struct.Struct("<QHIddd")
"""Number of the call, of rows, K, and when the last one arrived, started and ended; float32."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteModel:
    """What a front end knows of a model."""

    metadata: ModelMetadata
    properties: dict[str, str]
    provider: str


class Remote:
    """The models' process, at the other end of a link."""

    def __init__(self, link: Link, slots: Slots) -> None:
        self.link = link
        self._slots = slots
        self._numbers = itertools.count()
        self._calls: dict[int, tuple[asyncio.Future[Any], Sequence[int]]] = {}

    async def run(
        self, version: int, images: Sequence[Image], deadline_s: float, priority: Priority,
        stages: Stages | None,
    ) -> list[Row]:  # fmt: skip
        """Compute images of one version; see `Batcher.submit`."""
        slots = await self._slots.put([each for each in images if not isinstance(each, bytes)])
        number, done = self._new(slots)
        head = RUN.pack(number, version, deadline_s, priority is Priority.BULK, len(slots))
        self.link.send(Kind.RUN, head + struct.pack(f"<{len(slots)}I", *slots))
        try:
            rows, times = await done
        except asyncio.CancelledError:
            self.link.send(Kind.CANCEL, struct.pack("<Q", number))
            raise
        if stages is not None:
            arrival_s, start_s, end_s = times
            stages["queue"], stages["compute"] = (arrival_s, start_s), (start_s, end_s)
        return list(rows)

    async def ask(self, what: str, *arguments: object) -> Any:
        """Have something done there; return the answer."""
        number, done = self._new(())
        self.link.tell(Kind.ASK, {"call": number, "what": what, "arguments": arguments})
        return await done

    def answered(self, kind: Kind, body: bytes) -> None:
        """Take an answer. Places are free from then on, and not when a call is given up."""
        value: Any
        if kind is Kind.ROWS:
            number, count, classes, *times = ROWS.unpack_from(body)
            rows = np.frombuffer(body, np.float32, count * classes, ROWS.size)
            value = rows.reshape(count, classes), times
        else:
            value = json.loads(body)
            number = value["call"]
        done, slots = self._calls.pop(number)
        self._slots.give_back(slots)
        if done.done():
            return
        if kind is Kind.FAILED:
            done.set_exception(raised(value))
        else:
            done.set_result(value if kind is Kind.ROWS else value["value"])

    def _new(self, slots: Sequence[int]) -> tuple[int, asyncio.Future[Any]]:
        number, done = next(self._numbers), asyncio.get_running_loop().create_future()
        self._calls[number] = done, slots
        return number, done


class RemoteBatcher(Admission):
    """The places of one version in this front end; batches are made where the models are."""

    def __init__(
        self, remote: Remote, version: int, metrics: Metrics, *, queue_size: int, max_batch: int,
        workers: int, seconds_per_image: float,
    ) -> None:  # fmt: skip
        super().__init__(
            metrics,
            queue_size=queue_size,
            max_batch=max_batch,
            workers=workers,
            seconds_per_image=seconds_per_image,
        )
        self.runs = Runs()
        self._remote = remote
        self._version = version

    def decodes(self, image: bytes) -> bool:  # noqa: ARG002
        """Return False: photos are decoded here, and pixels sent."""
        return False

    def longest_run_s(self) -> float:
        """Return 0: what hangs is noticed where it runs."""
        return 0.0

    async def submit(
        self,
        images: Sequence[Image],
        *,
        deadline_s: float = math.inf,
        priority: Priority = Priority.INTERACTIVE,
        stages: Stages | None = None,
    ) -> list[Row | ServiceError]:
        """Return a row for each image; see `Batcher.submit`."""
        if not images:
            return []
        return [*await self._remote.run(self._version, images, deadline_s, priority, stages)]

    async def close(self) -> None:
        """Wait until nothing is held and every admitted image is answered."""
        await self._empty.wait()


class RemotePool(ModelPool):
    """What is loaded in the models' process."""

    def __init__(self, config: ServerConfig, metrics: Metrics, remote: Remote) -> None:
        """Begin with nothing; `follow` tells what there is."""
        super().__init__(config, metrics)
        self._remote = remote
        self._known: dict[int, ModelInstance] = {}

    def follow(self, state: dict[str, Any]) -> None:
        """Take over what is loaded there now."""
        self.refusals = state["refused"]
        self.unloaded = set(state["unloaded"])
        loaded: dict[str, list[ModelInstance]] = {}
        for told in state["loaded"]:
            if told["number"] not in self._known:
                self._known[told["number"]] = self._instance(told)
            instance = self._known[told["number"]]
            instance.fault = told["fault"]
            loaded.setdefault(instance.name, []).append(instance)
        self._loaded = loaded
        numbers = {told["number"] for told in state["loaded"]}
        for number in self._known.keys() - numbers:
            task = asyncio.create_task(self._release(number, self._known.pop(number)))
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    async def load_model(self, name: str) -> None:
        """Load what the repository says serves; see `ModelPool`."""
        await self._remote.ask("load", name)

    async def unload_model(self, name: str) -> None:
        """Serve a model no more; see `ModelPool`."""
        await self._remote.ask("unload", name)

    async def statistics(self, instance: ModelInstance) -> tuple[Statistics, int]:
        """Return what all front ends answered with a version, and its runs."""
        self.measure()
        numbers = {known: number for number, known in self._known.items()}
        told, runs = await self._remote.ask("statistics", numbers.get(instance, -1))
        return Statistics(**told), runs

    def measure(self) -> None:
        """Tell what was counted here so far."""
        self._remote.link.tell(
            Kind.MEASURES,
            {
                "samples": self._metrics.samples(),
                "statistics": {
                    number: asdict(instance.statistics) for number, instance in self._known.items()
                },
            },
        )

    def _instance(self, told: dict[str, Any]) -> ModelInstance:
        config = self._config
        metadata = ModelMetadata.from_props(told["properties"])
        return ModelInstance(
            name=told["name"],
            version=told["version"],
            model=RemoteModel(
                metadata=metadata, properties=told["properties"], provider=told["provider"]
            ),  # type: ignore[arg-type]  # all that a front end needs of one
            batcher=RemoteBatcher(  # type: ignore[arg-type]
                self._remote,
                told["number"],
                self._metrics,
                queue_size=config.queue_size,
                max_batch=config.max_batch,
                workers=told["workers"],
                # This front end gets a part of what the model does.
                seconds_per_image=told["pace_s"] * config.workers,
            ),
        )

    async def _release(self, number: int, instance: ModelInstance) -> None:
        await instance.batcher.close()
        self.measure()
        self._remote.link.send(Kind.RELEASED, struct.pack("<I", number))
