"""Memory for decoding: what does not fit now is put aside, and holds nobody up."""

import asyncio
import contextlib
import random
import threading
import time
from time import monotonic

import numpy as np
import pytest

from service.batching.decoder import Decoder
from service.batching.priority_queue import Priority
from service.errors import DeadlineError, ImageError
from service.observability.metrics import Metrics
from service.pixels.budget import Budget, NoRoomNow
from tests.service.pixels.pictures import encode, gradient, png


class Pictures:
    """Stands for `preprocess`: a picture is `name:bytes:seconds`, and holds so many bytes."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.held = self.most = 0
        self.gates: dict[str, threading.Event] = {}
        self._lock = threading.Lock()

    def __call__(self, data, image_size, *, budget, waits, **_):
        name, num_bytes, seconds = data.decode().split(":")
        room = contextlib.nullcontext()
        if int(num_bytes):
            room = budget.hold(int(num_bytes), lambda most: f"at most {most}", waits=waits)
        with room:
            with self._lock:
                self.order.append(name)
                self.held += int(num_bytes)
                self.most = max(self.most, self.held)
            if name in self.gates:
                assert self.gates[name].wait(20)
            time.sleep(float(seconds))
            with self._lock:
                self.held -= int(num_bytes)
        return np.zeros((image_size, image_size, 3), np.uint8)


@pytest.fixture
def pictures(monkeypatch) -> Pictures:
    """Return what decodes instead of `preprocess`."""
    found = Pictures()
    monkeypatch.setattr("service.batching.decoder.preprocess", found)
    return found


def submit(decoder, name, num_bytes, seconds=0, deadline_s=float("inf")):
    """Submit a picture."""
    return decoder.decode(
        f"{name}:{num_bytes}:{seconds}".encode(), 2, priority=Priority.INTERACTIVE,
        deadline_s=deadline_s,
    )  # fmt: skip


async def test_what_does_not_fit_now_waits_and_others_go_on(pictures):
    """The thread of a large picture takes small ones meanwhile; large ones keep their order."""
    budget = Budget(100)
    decoder = Decoder(2, Metrics(), budget)
    pictures.gates["first"] = threading.Event()
    first = submit(decoder, "first", 80)
    larges = [submit(decoder, f"large{n}", 60) for n in range(3)]
    smalls = [submit(decoder, f"small{n}", 0) for n in range(20)]
    await asyncio.gather(*smalls)

    assert not any(job.done() for job in (first, *larges))
    pictures.gates["first"].set()
    await asyncio.gather(first, *larges)
    large = [name for name in pictures.order if name.startswith("large")]
    assert ["large0", "large1", "large2"] == large
    assert 80 == pictures.most
    assert budget.fits(100)
    assert not budget.closed
    decoder.close()


async def test_a_large_picture_is_not_passed_for_ever(pictures):
    """While it waits, others that would take what becomes free wait behind it."""
    decoder = Decoder(3, Metrics(), Budget(100))
    for number in range(40):
        submit(decoder, f"middle{number}", 40, 0.002)
    await asyncio.sleep(0.005)
    all_of_it = submit(decoder, "all", 100)
    for number in range(40, 80):
        submit(decoder, f"middle{number}", 40, 0.002)
    await all_of_it

    assert pictures.order.index("all") < 60
    decoder.close()


async def test_waiting_is_bounded_by_the_deadline(pictures):
    """Who waits for memory is told in time, is not decoded after that, and holds nothing."""
    metrics, budget = Metrics(), Budget(100)
    decoder = Decoder(2, metrics, budget)
    pictures.gates["first"] = threading.Event()
    first = submit(decoder, "first", 80)
    await asyncio.sleep(0.05)
    late = submit(decoder, "late", 60, deadline_s=monotonic() + 0.1)
    given_up = submit(decoder, "given up", 60)
    last = submit(decoder, "last", 60)
    await asyncio.sleep(0.05)
    given_up.cancel()
    start_s = monotonic()
    with pytest.raises(DeadlineError):
        await late
    assert monotonic() - start_s < 2
    assert not first.done()
    pictures.gates["first"].set()
    await asyncio.gather(first, last)
    assert ["first", "last"] == pictures.order
    assert budget.fits(100)
    assert 1 == metrics.rejected_images.labels("deadline")._value.get()
    decoder.close()


async def test_what_takes_more_than_all_is_refused_at_once(pictures):
    """It is no use to wait: the sentence says what there is."""
    decoder = Decoder(1, Metrics(), Budget(100))

    found = await submit(decoder, "huge", 101)

    assert isinstance(found, ImageError)
    assert "at most 100" in str(found)
    decoder.close()


async def test_memory_that_others_hold_is_waited_for(pictures):
    """The threads that compute may hold a part as well, and nothing of theirs wakes the decoder."""
    budget = Budget(100)
    decoder = Decoder(1, Metrics(), budget)
    with budget.hold(60, str):
        job = submit(decoder, "large", 60)
        await asyncio.sleep(0.1)
        assert not job.done()
    await asyncio.wait_for(job, 10)
    decoder.close()


@pytest.mark.parametrize("seed", range(5))
async def test_every_picture_is_answered_and_all_memory_comes_back(pictures, seed):
    """Whatever is sent, cancelled or late: each gets one answer, and the bound holds."""
    rng, budget = random.Random(seed), Budget(100)
    decoder = Decoder(3, Metrics(), budget)
    jobs = []
    for number in range(300):
        deadline_s = monotonic() + rng.choice((0.01, 60, float("inf")))
        seconds = rng.random() / 500
        jobs.append(submit(decoder, str(number), rng.choice((0, 20, 45, 100, 101)), seconds,
                           deadline_s))  # fmt: skip
        if rng.random() < 0.2:
            rng.choice(jobs).cancel()
        if rng.random() < 0.1:
            await asyncio.sleep(0.002)
    await asyncio.wait_for(asyncio.wait(jobs), 60)
    while not budget.fits(100):
        await asyncio.sleep(0.01)
    for job in jobs:
        if not job.cancelled():
            with contextlib.suppress(DeadlineError):
                assert isinstance(job.result(), np.ndarray | ImageError)
    assert 45 < pictures.most <= 100
    assert not budget.closed
    decoder.close()


async def test_real_pictures_share_the_budget():
    """Bombs wait for each other, photos pass them, and each is answered."""
    metrics, budget = Metrics(), Budget(104 * 2**20)
    decoder = Decoder(4, metrics, budget)
    photo, large = encode(gradient(300, 300), "JPEG"), png(1800, 1800)
    with (
        pytest.raises(NoRoomNow),
        budget.hold(94 * 2**20, str),
        budget.hold(11 * 2**20, str, waits=False),
    ):
        pass

    jobs = [
        decoder.decode(data, 64, priority=Priority.BULK, deadline_s=float("inf"))
        for data in (large, photo, png(9000, 9000), large, photo, large) * 2
    ]
    found = await asyncio.gather(*jobs)
    assert 2 == sum(isinstance(each, ImageError) for each in found)
    assert 10 == sum(isinstance(each, np.ndarray) for each in found)
    assert 2 == metrics.bad_images.labels("too_much_memory")._value.get()
    assert budget.fits(104 * 2**20)
    decoder.close()
