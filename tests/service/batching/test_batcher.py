"""The batcher alone, before a fake model that waits at a gate and notes what it computed."""

import asyncio
import threading
from time import monotonic

import numpy as np
import pytest

from service.batching.batcher import Batcher
from service.errors import DeadlineError, OverloadedError
from service.observability.metrics import Metrics


def image(value: int) -> np.ndarray:
    """Return an image of that one value."""
    return np.full((2, 2, 3), value, np.uint8)


class Gated:
    """A model whose answer is the image's value; each run waits until the gate is open."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.batches: list[list[int]] = []
        self.passes: set[int] = set()

    def __call__(self, images_NHWC):
        values = images_NHWC[:, 0, 0, 0]
        self.batches.append(values.tolist())
        assert self.passes.issuperset(values.tolist()) or self.gate.wait(20)
        return values[:, None].astype(np.float32)


@pytest.fixture
def model():
    """Yield a model whose gate is closed; it is opened after the test."""
    gated = Gated()
    yield gated
    gated.gate.set()


@pytest.fixture
async def batcher(model):
    """Yield a maker of batchers before the model; they are closed after the test."""
    made = []

    def make(**settings):
        made.append(Batcher(model, metrics=Metrics(), **settings))
        return made[-1]

    yield make
    model.gate.set()
    for each in made:
        await each.close()


async def submit(batcher, *values: int, **options) -> list[int]:
    """Make one call, as the servicer does."""
    with batcher.admit(len(values)):
        rows = await batcher.submit([image(value) for value in values], **options)
    return [int(row[0]) for row in rows]


async def test_lone_caller_never_waits_for_company(batcher, model):
    """An idle model is used at once, however long the delay is."""
    model.gate.set()
    async with asyncio.timeout(5):
        assert [7] == await submit(batcher(max_delay_s=1000, max_batch=8), 7)


async def test_callers_that_wait_share_a_batch(batcher, model, eventually):
    """What arrives while the worker is busy leaves together, in order, `max_batch` at most."""
    queue = batcher(max_batch=3, workers=1)
    async with asyncio.TaskGroup() as group:
        first = group.create_task(submit(queue, 1))
        await eventually(lambda: model.batches)
        others = [group.create_task(submit(queue, value)) for value in (2, 3, 4, 5)]
        await asyncio.sleep(0)
        model.gate.set()
    assert [[1], [2, 3, 4], [5]] == model.batches
    assert [[1], [2], [3], [4], [5]] == [task.result() for task in (first, *others)]


async def test_calls_that_arrive_together_share_a_batch(batcher, model):
    """Several calls in one turn of the loop are one run even where the model is idle."""
    model.gate.set()
    queue = batcher(workers=1)
    await asyncio.gather(*(submit(queue, value) for value in (1, 2, 3)))
    assert [[1, 2, 3]] == model.batches


async def test_a_worker_leaves_the_next_its_share(batcher, model, eventually):
    """It does not take all that waits: the next would idle, and callers would wait for longer."""
    queue = batcher(max_batch=8, workers=2)
    async with asyncio.TaskGroup() as group:
        group.create_task(submit(queue, 1))
        await eventually(lambda: model.batches)
        group.create_task(submit(queue, 2, 3, 4, 5, 6))
        await eventually(lambda: len(model.batches) == 2)
        model.gate.set()
    assert [[1], [2, 3, 4], [5, 6]] == model.batches


@pytest.fixture
def half_busy(batcher, model, eventually):
    """`await half_busy(group)` is a batcher; one of its two workers computes five images."""

    async def make(group, **settings):
        queue = batcher(max_batch=8, workers=2, **settings)
        model.passes = {6, 7, 8, 9, 10}
        group.create_task(submit(queue, *range(1, 11)))
        await eventually(lambda: len(model.batches) == 2)
        await eventually(lambda: queue.runs.count == 1)
        return queue

    return make


async def test_delay_is_counted_from_the_first_image(half_busy, model, eventually):
    """Less than a share waits `max_delay_s` for company, which later images do not prolong."""
    delay_s = 0.5
    async with asyncio.TaskGroup() as group:
        queue = await half_busy(group, max_delay_s=delay_s, seconds_per_image=10.0)
        start_s = monotonic()
        group.create_task(submit(queue, 11))
        await asyncio.sleep(0.8 * delay_s)
        group.create_task(submit(queue, 12))
        await eventually(lambda: len(model.batches) == 3)
        waited_s = monotonic() - start_s
        model.gate.set()
    assert [11, 12] == model.batches[-1]
    assert delay_s <= waited_s < 1.7 * delay_s


async def test_the_delay_is_a_part_of_what_the_batch_takes(half_busy, model, eventually):
    """Where runs are known to be short, company is waited for no longer than it is worth."""
    async with asyncio.TaskGroup() as group:
        queue = await half_busy(group, max_delay_s=1000, seconds_per_image=0.1)
        start_s = monotonic()
        group.create_task(submit(queue, 11))
        await eventually(lambda: len(model.batches) == 3)
        waited_s = monotonic() - start_s
        model.gate.set()
    assert 0.1 <= waited_s < 5


async def test_a_share_does_not_wait(half_busy, model, eventually):
    """As soon as a worker's share of all images waits, it leaves: the delay does not matter."""
    async with asyncio.TaskGroup() as group:
        queue = await half_busy(group, max_delay_s=1000, seconds_per_image=10.0)
        for value in (11, 12, 13, 14):
            group.create_task(submit(queue, value))
        await eventually(lambda: len(model.batches) == 3)
        model.gate.set()
    assert [11, 12, 13, 14] == model.batches[-1]


async def test_big_call_uses_every_worker(batcher, model):
    """Free workers share what waits, so that one big call is as quick as the machine allows."""
    model.gate.set()
    assert [1, 2, 3, 4] == await submit(batcher(max_batch=8, workers=2), 1, 2, 3, 4)
    assert [[1, 2], [3, 4]] == sorted(model.batches)


async def test_overload_is_refused_at_once(batcher, model):
    """What does not fit is refused whole, takes no place, and fits again after the others went."""
    queue = batcher(queue_size=3)
    with queue.admit(2):
        with pytest.raises(OverloadedError, match="2 of 3"), queue.admit(2):
            pass
        with queue.admit(1):
            pass
    with queue.admit(3):
        pass


async def test_cancelled_call_is_not_computed(batcher, model, eventually):
    """A caller that gave up in the queue costs no compute and frees its places."""
    queue = batcher(workers=1, queue_size=3)
    async with asyncio.TaskGroup() as group:
        group.create_task(submit(queue, 1))
        await eventually(lambda: model.batches)
        given_up = group.create_task(submit(queue, 2, 3))
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.wait([given_up])
        last = group.create_task(submit(queue, 4, 5))
        await asyncio.sleep(0)
        model.gate.set()
    assert [[1], [4, 5]] == model.batches
    assert [4, 5] == last.result()


async def test_work_after_its_deadline_is_not_computed(batcher, model, eventually):
    """An image whose deadline passed in the queue is dropped, and its caller told."""
    queue = batcher(workers=1)
    async with asyncio.TaskGroup() as group:
        group.create_task(submit(queue, 1))
        await eventually(lambda: model.batches)
        late = asyncio.ensure_future(submit(queue, 2, 3, deadline_s=monotonic()))
        await asyncio.sleep(0)
        model.gate.set()
        with pytest.raises(DeadlineError):
            await late
    assert [[1]] == model.batches


async def test_failing_run_fails_its_own_callers_only():
    """An exception of the model reaches those in the batch; the next batch is answered."""

    def predict(images_NHWC):
        if 13 in images_NHWC:
            raise RuntimeError("bad luck")
        return images_NHWC[:, 0, 0, :1].astype(np.float32)

    queue = Batcher(predict, metrics=Metrics())
    with pytest.raises(RuntimeError, match="bad luck"):
        await submit(queue, 13)
    assert [14] == await submit(queue, 14)
    await queue.close()


async def test_every_caller_gets_its_own_rows(batcher, model):
    """Many calls of many sizes over several workers: each gets its answers, in its order."""
    model.gate.set()
    queue = batcher(max_batch=5, workers=3, queue_size=1000)
    random = np.random.default_rng(0)
    calls = [random.integers(0, 256, random.integers(0, 9)).tolist() for _ in range(100)]
    assert calls == await asyncio.gather(*(submit(queue, *call) for call in calls))
    assert 5 >= max(map(len, model.batches))


async def test_close_waits_for_what_was_admitted(batcher, model):
    """An instance that is swapped out ends only after its last answer."""
    queue = batcher()
    with queue.admit(1):
        closing = asyncio.ensure_future(queue.close())
        model.gate.set()
        rows = await queue.submit([image(9)])
        assert not closing.done()
    await closing
    assert 9 == rows[0][0]
