"""What is always true: of each call, at every moment, of an idle server, and at the end."""

import math
from typing import Any

from grpc import StatusCode

from service.batching.byte_budget import BULK_SHARE
from service.batching.priority_queue import Priority
from service.config import MAX_IMAGES_PER_CALL
from tests.service.simulation.calls import Call, Request
from tests.service.simulation.parts import VERSIONS

_OVERLOADED = (
    "queue_full", "bytes_full", "streams_full", "calls_full", "message_slow", "quota",
    "deadline_too_near",
)  # fmt: skip
_LONGEST_RETRY_S = 600.0


def of_call(world: Any, call: Call) -> None:
    """A call that has ended was answered once, rightly, by one version; or was told why not."""
    assert not call.fault, f"{call.over}: {call.fault}"
    code = call.code
    if call.over == "stream":
        _of_stream(world, call)
    elif code is StatusCode.OK:
        (response,) = call.responses
        if call.over in ("infer", "pixels"):
            _of_tensors(world, call, response)
        else:
            _of_response(world, call.requests[0], response, call.began_s)
    if code is StatusCode.OK:
        return
    if call.over == "infer" and code is StatusCode.INVALID_ARGUMENT:
        assert any(_is_bad(world, photo) for photo in call.requests[0].images), call.message
        return
    if code is StatusCode.RESOURCE_EXHAUSTED:
        world.refused[0] += 1
        world.refused[1] += max(call.images, 1)
        _says_when(call.retry_after_s(), call.message)
        return
    _may_end_with(world, call, code, call.message)
    if code is StatusCode.UNAVAILABLE and world.draining:
        _says_when(call.retry_after_s(), call.message)


def _of_stream(world: Any, call: Call) -> None:
    """Every request that was read is answered, in order, unless the caller left."""
    if call.code is StatusCode.OK:
        assert len(call.responses) == len(call.requests), "a stream ended early"
    elif call.code is StatusCode.UNAVAILABLE:
        assert len(call.responses) == len(call.read_s), "the drain left requests unanswered"
    else:
        # Whatever a request of it ends with, the stream goes on.
        assert call.code is not StatusCode.INTERNAL, "the fault of a request ended its stream"
    for request, response, read_s in zip(call.requests, call.responses, call.read_s, strict=False):
        if not response.HasField("error"):
            _of_response(world, request, response, read_s)
            continue
        code = next(each for each in StatusCode if each.value[0] == response.error.code)
        if code is StatusCode.RESOURCE_EXHAUSTED:
            raise AssertionError(f"bulk may wait, and was refused: {response.error.message}")
        _may_end_with(world, call, code, response.error.message)


def _of_response(world: Any, request: Request, response: Any, since_s: float) -> None:
    assert len(response.results) == len(request.images), "a result is missing, or too many"
    _served(world, request, response.model, response.model_version, since_s)
    for photo, result in zip(request.images, response.results, strict=True):
        if _is_bad(world, photo):
            wanted = StatusCode.INTERNAL if photo.fault == "raises" else StatusCode.INVALID_ARGUMENT
            assert result.error.code == wanted.value[0], result
        else:
            assert not result.HasField("error"), result
            row = result.classes[0].probability
            assert row == photo.number * VERSIONS + response.model_version, "another's answer"
            world.predicted += 1


def _of_tensors(world: Any, call: Call, response: Any) -> None:
    request = call.requests[0]
    version = int(response.model_version)
    _served(world, request, response.model_name, version, call.began_s)
    (raw,) = response.raw_output_contents or (response.outputs[0].contents.fp32_contents,)
    rows = memoryview(raw).cast("f") if isinstance(raw, bytes) else raw
    wanted = [photo.number * VERSIONS + version for photo in request.images]
    assert list(rows) == wanted, "another's answer"
    world.predicted += len(wanted)


def _served(world: Any, request: Request, model: str, version: int, since_s: float) -> None:
    """The version was asked for, or served while the call was there."""
    assert model == request.model
    if request.model_version:
        assert version == request.model_version
    else:
        assert version in world.serving(model, since_s), f"version {version} did not serve"


def _is_bad(world: Any, photo: Any) -> bool:
    return bool(photo.fault) or photo.memory > world.config.max_decode_bytes


def _may_end_with(world: Any, call: Call, code: StatusCode, message: str) -> None:
    """Nothing but what happened explains how a call ended."""
    allowed = {
        StatusCode.CANCELLED: call.leaves_s <= world.machine.now or world.port.ended,
        StatusCode.DEADLINE_EXCEEDED: call.deadline_s < math.inf,
        StatusCode.INTERNAL: world.machine.raised_s >= call.began_s,
        StatusCode.NOT_FOUND: world.unloaded_s >= call.began_s
        or any(request.model_version for request in call.requests),
        StatusCode.UNAVAILABLE: world.draining,
    }
    assert allowed.get(code), f"{call.over}: a call ended with {code.name}: {message}"


def _says_when(retry_after_s: float | None, message: str) -> None:
    assert retry_after_s is not None, f"a refusal does not say when to try again: {message}"
    assert 0 <= retry_after_s <= _LONGEST_RETRY_S, f"try again in {retry_after_s} s: {message}"


def at_every_moment(world: Any) -> None:
    """What is in the server is within its limits."""
    config, server = world.config, world.server
    most = config.max_bytes_in_flight
    read_at_once = 4 + config.max_streams
    budget = server._byte_budget
    bulk = budget._admitted[Priority.BULK]
    assert bulk <= max(BULK_SHARE * most, config.max_message_bytes), "too many bytes of bulk"
    assert world.held <= most + read_at_once * config.max_message_bytes, "bytes beyond the limit"
    world.moments += 1
    if world.moments % 64 == 0:
        _nothing_abandoned(world)
    for instance in server.models.loaded:
        interactive, bulk = instance.batcher._admitted.values()
        assert min(interactive, bulk) >= 0
        assert interactive + bulk <= config.queue_size, "images beyond the limit"
        assert bulk <= max(MAX_IMAGES_PER_CALL, BULK_SHARE * config.queue_size), "too much bulk"
        assert len(instance.batcher._running) <= config.runs


def _nothing_abandoned(world: Any) -> None:
    """What waits and nobody waits for holds no bytes: nothing accounts for them any more."""
    for instance in world.server.models.loaded:
        for item in instance.batcher._waiting:
            assert not item.row.cancelled(), "an image waits for the model, and its caller left"
    for job in world.server._services.classifier._inference._decoder._waiting:
        assert not job.done.cancelled(), "a photo waits to be decoded, and its caller left"


async def when_idle(world: Any) -> None:
    """An idle server lets one call try, whatever it has lived through."""
    at_rest(world)
    for name, count in (("food", 1), ("food", MAX_IMAGES_PER_CALL)):
        if name not in world.server.models._loaded:
            continue
        call = world._call()
        call.over, call.gaps_s, call.leaves_s = "grpc", [0.0], math.inf
        call.requests = [Request([world._photo("pixels") for _ in range(count)], name)]
        call.deadline_s = world.machine.now + 0.5
        if world.callers:
            call.metadata = (("peer", "1"), ("caller", "0"))
        world.begin(call)
        await world._all_left()
        assert call.code is not StatusCode.RESOURCE_EXHAUSTED, f"an idle server: {call.message}"


def at_rest(world: Any) -> None:
    """Nothing is in the server any more, and every counter says so."""
    server, metrics = world.server, world.server.metrics
    assert world.held == 0
    for gauge in ("admitted_images", "queued_images", "bytes_in_flight"):
        assert getattr(metrics, gauge).value == 0, f"{gauge} is {getattr(metrics, gauge).value}"
    budgets = (server._byte_budget, world.server._services.interceptor._open._probe_budget)
    for budget in budgets:
        assert not any(budget._admitted.values()), budget._admitted
        assert budget._reading == 0, f"{budget._reading} bytes are being read"
        assert not any((budget._queues, budget._limits, budget._bulk_waiters))
    opened = world.server._services.interceptor._open
    assert (opened._calls, opened._probes, opened._streams) == (0, 0, 0)
    for instance in server.models.loaded:
        batcher = instance.batcher
        assert not any(batcher._admitted.values())
        assert all(abs(each) < 1e-6 for kinds in batcher._by_kind.values() for each in kinds)
        assert not any((batcher._holders, batcher._waiters))


def at_the_end(world: Any) -> None:
    """After the drain nothing is left: no image, no byte, no thread at work, no error unseen."""
    at_rest(world)
    server = world.server
    assert not world.open, "a call was never answered"
    assert not server.models.loaded
    decoding = server.models._budget
    assert decoding._free == decoding._most_bytes
    assert not server.watchdog.fatal.done(), server.watchdog.fatal.result()
    assert not world.machine.faults, world.machine.faults
    refusals = sum(server.metrics.rejected_images.labels(each).value for each in _OVERLOADED)
    low, high = world.refused
    assert low <= refusals, f"{low} calls were refused, and {refusals} images counted"
    assert refusals <= high + world.counts.get(StatusCode.CANCELLED, 0) * 64
    counted = sum(each.value for each in server.metrics.predictions.children.values())
    assert counted >= world.predicted, f"{world.predicted} answers, and {counted} counted"
