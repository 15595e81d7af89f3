"""Loads one version of a model: verify its files, open it, warm it up, and give it a batcher."""

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from service.batching.batcher import Batcher
from service.batching.decoder import decoded
from service.config import ServerConfig
from service.errors import OtherAnswersError
from service.memory import trim_heaps
from service.models import versions
from service.models.instance import ModelInstance
from service.models.model import Model
from service.models.repository import ModelRepository
from service.observability.metrics import Metrics
from service.pixels.budget import Budget
from service.sessions import answers
from service.sessions.cpu_engine import CpuOptions
from service.sessions.opening import CPU
from service.sessions.openvino import OPENVINO

T = TypeVar("T")


async def load_instance(
    name: str,
    version: int,
    *,
    repository: ModelRepository,
    config: ServerConfig,
    metrics: Metrics,
    budget: Budget,
    run_failed: Callable[[ModelInstance], None],
) -> ModelInstance:
    """Load a version, in a thread, and return it ready to answer.

    Args:
        name: Name of the model.
        version: Number of the version.
        repository: Where it lies.
        config: The device, and how batches are made.
        metrics: Where the batcher counts.
        budget: The memory that decoders share.
        run_failed: Called on the event loop after each run that raised.

    Raises:
        ModelContractError: The files are damaged, or the model breaks the contract.
        OtherAnswersError: It answers otherwise here than where it was released.
    """
    try:
        model, seconds_per_image = await _in_thread(
            partial(_open, name, version, repository=repository, config=config)
        )
    except OtherAnswersError:
        metrics.other_answers.labels(name).inc()
        raise
    instance: ModelInstance
    decode = partial(decoded, image_size=model.metadata.image_size, metrics=metrics, budget=budget)
    batcher = Batcher(
        model.predict,
        metrics=metrics,
        max_batch=config.max_batch,
        max_delay_s=config.max_delay_ms / 1000,
        queue_size=config.queue_size,
        workers=config.runs or model.runs or config.cores,
        seconds_per_image=seconds_per_image,
        failed=lambda: run_failed(instance),
        # A GPU must not wait for photos, so other threads decode for it.
        decode=None if model.runs else decode,
    )
    instance = ModelInstance(name=name, version=version, model=model, batcher=batcher)
    return instance


def _open(
    name: str, version: int, *, repository: ModelRepository, config: ServerConfig
) -> tuple[Model, float]:
    """Return a checked and warm model, and the seconds that an image takes in a full batch."""
    repository.verify(name, version)
    model = Model(
        repository.path(name, version),
        device=config.device,
        intra_op_threads=config.intra_op_threads,
        cpu=CpuOptions(
            engine=config.cpu_engine,
            precision=config.cpu_precision,
            runs=config.runs or config.cores,
            threads=config.intra_op_threads,
        ),
    )
    versions.verify_labels(repository.path(name, version), model.metadata.labels)
    seconds_per_image = model.warm_up(config.max_batch)
    verify_answers(repository.path(name, version), model)
    # Loading needs three times the memory of the model.
    trim_heaps()
    return model, seconds_per_image


def verify_answers(onnx: Path, model: Model) -> None:
    """Compare what a warm model answers here with what it answered where it was released.

    OpenVINO's answers were compared when it was chosen.

    Raises:
        OtherAnswersError: It answers otherwise; see `service/sessions/answers.py`.
        ModelContractError: The stored answers cannot be read.
    """
    if model.provider == OPENVINO:
        return
    allowed = answers.OTHER_ENGINE
    if model.provider == CPU:
        allowed = answers.TOLERANCES.get(model.precision, allowed)
    answers.require(
        onnx.with_name(answers.FILE), model.predict, model.metadata.image_size,
        len(model.metadata.labels), allowed,
    )  # fmt: skip


async def _in_thread(work: Callable[[], T]) -> T:
    """Call `work` in a daemon thread, so that a slow load does not hold up the process's exit.

    onnxruntime releases the GIL while it creates a session. Calls that are being served wait at
    most 25 ms longer meanwhile (measured with ResNet18 on 2 cores, where a load takes 200 ms).
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def resolve(set_outcome: Callable[[T], None] | Callable[[Exception], None], value: T) -> None:
        if not done.done():
            set_outcome(value)  # type: ignore[arg-type]

    def run() -> None:
        try:
            outcome = (done.set_result, work())
        except Exception as error:
            outcome = (done.set_exception, error)  # type: ignore[assignment]
        if not loop.is_closed():
            loop.call_soon_threadsafe(resolve, *outcome)

    threading.Thread(target=run, name="load", daemon=True).start()
    return await done
