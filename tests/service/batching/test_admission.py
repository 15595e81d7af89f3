"""Which work goes first, and how work that would come too late is refused early."""

import asyncio
import threading
from time import monotonic

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.batching.admission import Admission
from service.batching.batcher import Batcher
from service.batching.decoder import Decoder
from service.batching.priority_queue import BULK_EVERY, Priority, PriorityQueue
from service.batching.service_time import ServiceTime
from service.errors import DeadlineError, OverloadedError
from service.observability.metrics import Metrics
from service.pixels.budget import Budget


def test_interactive_goes_first_and_bulk_never_starves():
    """While both wait, every eighth item is bulk; each priority keeps its order."""
    waiting: PriorityQueue[str] = PriorityQueue()
    for number in range(30):
        waiting.push(f"i{number}", Priority.INTERACTIVE)
        waiting.push(f"b{number}", Priority.BULK)
    taken = [waiting.pop() for _ in range(24)]
    assert ["b0", "b1", "b2"] == [taken[at] for at in range(BULK_EVERY - 1, 24, BULK_EVERY)]
    assert [f"i{number}" for number in range(21)] == [each for each in taken if each[0] == "i"]


@given(st.lists(st.sampled_from(["i", "b", "pop"]), max_size=200))
def test_nothing_is_lost_and_bulk_waits_for_a_bounded_time(moves):
    """Whatever the order of arrival, everything comes out once, and seven at most pass bulk."""
    waiting: PriorityQueue[tuple[str, int]] = PriorityQueue()
    pushed, popped, passed = [], [], 0
    bulk_waits = 0
    for number, move in enumerate(moves):
        if move == "pop" and len(waiting):
            item = waiting.pop()
            popped.append(item)
            if item[0] == "b":
                bulk_waits -= 1
                passed = 0
            else:
                passed = passed + 1 if bulk_waits else 0
            assert passed < BULK_EVERY
        elif move != "pop":
            bulk_waits += move == "b"
            pushed.append((move, number))
            waiting.push(pushed[-1], Priority.BULK if move == "b" else Priority.INTERACTIVE)
    popped += [waiting.pop() for _ in range(len(waiting))]
    for kind in "ib":
        assert [e for e in pushed if e[0] == kind] == [e for e in popped if e[0] == kind]


def test_service_time_bounds_what_it_has_seen():
    """After some work of one kind, the bound is above every sample and not far above."""
    service_time = ServiceTime()
    assert 0 == service_time.bound_s(100)
    for seconds in (0.09, 0.11) * 50:
        service_time.observe(seconds, 10)
    assert 0.11 * 10 <= service_time.bound_s(100) < 0.14 * 10
    assert service_time.expected_s(100) == pytest.approx(1.0, rel=0.05)


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch) -> Clock:
    """Move the time of admission by hand."""
    found = Clock()
    for module in ("admission", "service_time"):
        monkeypatch.setattr(f"service.batching.{module}.monotonic", found)
    return found


def test_one_slow_run_does_not_refuse_calls_for_ever(clock):
    """While nothing is observed, the estimate sinks to the first guess, and no lower."""
    service_time = ServiceTime(0.01)
    for _ in range(20):
        service_time.observe(6, 10)
    assert 0.4 < service_time.expected_s(1) < 0.6
    clock.now_s += 10
    assert 0.1 < service_time.expected_s(1) < 0.2
    clock.now_s += 300
    assert service_time.expected_s(1) == pytest.approx(0.01)
    assert service_time.bound_s(1) == pytest.approx(0.025)


def test_a_standstill_counts_as_one_slow_run():
    """A laptop that slept for an hour in mid-run has not learnt that runs take an hour."""
    service_time = ServiceTime(0.01)
    service_time.observe(3600, 1)
    assert service_time.expected_s(1) < 0.02


async def slow_call(admission, clock, *, seconds, deadline_s=10.0, **call) -> None:
    """Admit a call that takes so long."""
    with admission.admit(16, deadline_s=clock() + deadline_s, **call):
        clock.now_s += seconds


@pytest.fixture
async def admission(clock) -> Admission:
    """Return an idle one that guesses 1 ms for an image."""
    return Admission(Metrics(), queue_size=512, max_batch=32, workers=1, seconds_per_image=0.001)


async def test_originals_do_not_shut_out_thumbnails(admission, clock):
    """After calls of originals that took 4 s each, small photos still fit into one second."""
    for _ in range(40):
        await slow_call(admission, clock, seconds=4, image_bytes=4_000_000)
    with admission.admit(1, image_bytes=20_000):
        await slow_call(admission, clock, seconds=0.1, deadline_s=1, image_bytes=20_000)
        with pytest.raises(OverloadedError, match="deadline"):
            await slow_call(admission, clock, seconds=0, deadline_s=1, image_bytes=4_000_000)


async def test_an_idle_server_lets_one_call_try(admission, clock):
    """Whatever it has learnt: only work that is done can show that it became faster."""
    for _ in range(40):
        await slow_call(admission, clock, seconds=4)
    await slow_call(admission, clock, seconds=0.02, deadline_s=1)
    with admission.admit(1), pytest.raises(OverloadedError, match="deadline"):
        await slow_call(admission, clock, seconds=0.02, deadline_s=1)
    for _ in range(60):
        await slow_call(admission, clock, seconds=0.02, deadline_s=1)
    with admission.admit(1):
        await slow_call(admission, clock, seconds=0.02, deadline_s=1)


async def test_a_server_that_is_never_idle_forgets_a_slow_time(admission, clock):
    """Single photos show nothing of long queues; after half a minute, a long call is let in."""
    for _ in range(40):
        await slow_call(admission, clock, seconds=4)
    with admission.admit(1):
        clock.now_s += 30
        await slow_call(admission, clock, seconds=0.02, deadline_s=1)


class Slow:
    """A model of 20 ms a run, however many images."""

    def __init__(self) -> None:
        self.rows = 0

    def __call__(self, images_NHWC):
        threading.Event().wait(0.02)
        self.rows += len(images_NHWC)
        return np.zeros((len(images_NHWC), 2), np.float32)


async def test_a_deadline_that_cannot_be_kept_is_refused_at_once():
    """A long queue and a near deadline: OverloadedError with a time, and not a late answer."""
    batcher = Batcher(Slow(), metrics=Metrics(), max_batch=1, seconds_per_image=0.02)
    image = np.zeros((2, 2, 3), np.uint8)

    async def call(seconds: float) -> float:
        start_s = monotonic()
        with batcher.admit(1, deadline_s=start_s + seconds):
            await batcher.submit([image], deadline_s=start_s + seconds)
        return monotonic() - start_s

    waiting = [asyncio.create_task(call(10)) for _ in range(50)]
    await asyncio.sleep(0)
    start_s = monotonic()
    with pytest.raises(OverloadedError, match="deadline") as caught:
        await call(0.2)
    assert monotonic() - start_s < 0.1
    assert 0.5 < caught.value.retry_after_s < 5
    await asyncio.gather(*waiting)
    assert await call(0.2) < 0.2
    await batcher.close()


async def test_work_that_cannot_end_in_time_is_not_begun():
    """With less time left than a run takes, the model never sees the image."""
    model = Slow()
    batcher = Batcher(model, metrics=Metrics(), max_batch=1, seconds_per_image=0.02)
    with pytest.raises(DeadlineError):
        await batcher.submit([np.zeros((2, 2, 3), np.uint8)], deadline_s=monotonic() + 0.01)
    assert 0 == model.rows
    await batcher.close()


async def test_bulk_beside_interactive_in_one_batcher():
    """200 interactive images and 20 of bulk: bulk is done long before interactive ends."""
    order: list[str] = []
    batcher = Batcher(Slow(), metrics=Metrics(), max_batch=4, queue_size=1000)
    image = np.zeros((2, 2, 3), np.uint8)

    async def one(kind: str, priority: Priority) -> None:
        with batcher.admit(1, priority=priority):
            await batcher.submit([image], priority=priority)
        order.append(kind)

    calls = [one("i", Priority.INTERACTIVE) for _ in range(200)]
    calls += [one("b", Priority.BULK) for _ in range(20)]
    await asyncio.gather(*calls)
    assert order.index("b") < 20
    last_bulk = max(at for at, kind in enumerate(order) if kind == "b")
    assert 140 < last_bulk < 175  # every eighth item
    await batcher.close()


async def test_decoding_is_dropped_when_nobody_waits(monkeypatch):
    """A cancelled or late image in the queue is never decoded, and interactive ones go first."""
    gate = threading.Event()
    seen = []

    def slow(data, image_size, **_):
        seen.append(data)
        assert gate.wait(20)
        return np.zeros((2, 2, 3), np.uint8)

    monkeypatch.setattr("service.batching.decoder.preprocess", slow)
    decoder = Decoder(1, Metrics(), Budget(2**20))

    def decode(data, priority=Priority.BULK, deadline_s=float("inf")):
        return decoder.decode(data, 2, priority=priority, deadline_s=deadline_s)

    running = [decode(b"1"), decode(b"2")]  # one runs, one waits right behind it
    await asyncio.sleep(0.05)
    given_up, late, last = decode(b"x"), decode(b"y", deadline_s=monotonic() + 0.01), decode(b"3")
    first = decode(b"0", Priority.INTERACTIVE)
    await asyncio.sleep(0.05)
    given_up.cancel()
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(*running, last, first)
    with pytest.raises(DeadlineError):
        await late
    assert [b"1", b"2", b"0", b"3"] == seen
    decoder.close()
