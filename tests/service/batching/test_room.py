"""How much is let in at once, what a call's wait is worked out from, and what is learnt of it."""

import asyncio
import math

import pytest

from service.batching.admission import Admission
from service.batching.priority_queue import Priority
from service.config import MAX_IMAGES_PER_CALL
from service.errors import DeadlineError, OverloadedError
from service.observability.metrics import Metrics

THUMBNAIL, PHOTO, ORIGINAL = 2**17 - 1, 2**17, 2**20
BULK, INTERACTIVE = Priority.BULK, Priority.INTERACTIVE


class Times:
    """In the place of what is learnt: takes down what it is asked and told."""

    def __init__(self) -> None:
        self.asked: list[list[float]] = []
        self.told: list[tuple[str, float, list[float]]] = []

    def bound_s(self, queue: list[float]) -> float:
        self.asked.append(queue)
        return math.inf

    def observe(self, seconds: float, queue: list[float]) -> None:
        self.told.append(("took", seconds, queue))

    def observe_at_least(self, seconds: float, queue: list[float]) -> None:
        self.told.append(("took more than", seconds, queue))


@pytest.fixture
def now_s(monkeypatch) -> list[float]:
    """The time, which a test moves."""
    now_s = [1000.0]
    for module in ("admission", "service_time"):
        monkeypatch.setattr(f"service.batching.{module}.monotonic", lambda: now_s[0])
    return now_s


@pytest.fixture
def opened(now_s):
    """`opened(queue_size=…)` is an admission that guesses 1 ms for an image."""

    def make(times: Times | None = None, **settings) -> Admission:
        defaults = {"queue_size": 1000, "max_batch": 8, "workers": 2, "seconds_per_image": 0.002}
        admission = Admission(Metrics(), **{**defaults, **settings})
        if times:
            admission._queue_time = times
        return admission

    return make


async def test_no_more_images_than_the_queue_holds(opened):
    """The last place is given, the one after it is not; what was answered makes room again."""
    admission = opened(queue_size=100)
    with admission.admit(60):
        assert admission.refusal(40) is None
        refused = admission.refusal(41)
        assert "60 of 100 images are being worked on and 41 more do not fit" in str(refused)
        assert "queue_full" == refused.reason
        assert 0.05 == refused.retry_after_s
        assert 0.08 == pytest.approx(admission.refusal(80).retry_after_s)
        value = admission._metrics.registry.get_sample_value
        assert 60 == value("hansang_admitted_images")
        with pytest.raises(OverloadedError, match="41 more"), admission.admit(41):
            pytest.fail("it was let in")
        assert 41 == value("hansang_rejected_images_total", {"reason": "queue_full"})
    assert admission.refusal(100) is None
    assert 0 == value("hansang_admitted_images")
    with admission.admit(99):
        assert admission.refusal() is None, "one image is asked for unless told otherwise"


@pytest.mark.parametrize(("queue_size", "most"), [(1000, 750), (64, MAX_IMAGES_PER_CALL)])
async def test_bulk_leaves_a_quarter_to_interactive_calls(opened, queue_size, most):
    """But one whole call of bulk fits however short the queue is."""
    admission = opened(queue_size=queue_size)
    with admission.admit(most - 10, priority=BULK):
        assert admission.refusal(10, priority=BULK) is None
        assert "queue_full" == admission.refusal(11, priority=BULK).reason
        rest = queue_size - most + 10
        assert admission.refusal(rest) is None
        assert "queue_full" == admission.refusal(rest + 1).reason


async def test_a_wait_may_take_three_quarters_of_a_calls_time(opened, now_s):
    """200 images of 1 ms, with three mean deviations for safety, take half a second."""
    admission = opened()
    with admission.admit(199):
        refused = admission.refusal(1, deadline_s=now_s[0] + 0.66)
        assert "200 images wait, and the deadline would pass" in str(refused)
        assert "deadline_too_near" == refused.reason
        assert 0.5 == pytest.approx(refused.retry_after_s)
        assert admission.refusal(1, deadline_s=now_s[0] + 0.67) is None
        assert admission.refusal(1) is None


async def test_a_short_queue_lets_in_whatever_its_deadline(opened, now_s):
    """Two images a worker, or one call of any size where nobody waits."""
    admission = opened()
    assert admission.refusal(900, deadline_s=now_s[0]) is None
    with admission.admit(3):
        assert admission.refusal(1, deadline_s=now_s[0]) is None
        assert "deadline_too_near" == admission.refusal(2, deadline_s=now_s[0]).reason


async def test_interactive_calls_wait_for_a_part_of_bulk(opened, now_s):
    """For every eighth image and for what runs; bulk waits for all."""
    admission = opened()
    with admission.admit(14), admission.admit(100, priority=BULK):
        assert "33 images wait" in str(admission.refusal(1, deadline_s=now_s[0]))
        assert "115 images wait" in str(admission.refusal(1, deadline_s=now_s[0], priority=BULK))
    with admission.admit(14), admission.admit(5, priority=BULK):
        assert "20 images wait" in str(admission.refusal(1, deadline_s=now_s[0]))


async def test_a_queue_is_weighed_by_kinds_of_images(opened, now_s):
    """By bytes: thumbnails, photos, originals; of bulk as large a part as goes first."""
    times = Times()
    admission = opened(times)
    with admission.admit(10, image_bytes=THUMBNAIL), admission.admit(4, image_bytes=ORIGINAL):
        admission.refusal(2, image_bytes=PHOTO, deadline_s=now_s[0])
        with admission.admit(36, image_bytes=ORIGINAL, priority=BULK):
            admission.refusal(2, image_bytes=ORIGINAL - 1, deadline_s=now_s[0])
            admission.refusal(2, image_bytes=PHOTO, deadline_s=now_s[0], priority=BULK)
    assert [[10, 2, 4], [10, 2, 4 + 18], [10, 2, 4 + 36]] == times.asked


@pytest.mark.parametrize(
    ("error", "learnt"),
    [
        (None, "took"),
        (DeadlineError("late"), "took more than"),
        (asyncio.CancelledError(), "took more than"),
        (ValueError("a bad image"), None),
    ],
    ids=["answered", "late", "given up", "failed"],
)
async def test_long_queues_teach_how_long_they_take(opened, now_s, error, learnt):
    """By the whole queue's time; a short queue shows a run's latency, and a failure nothing."""
    times = Times()
    admission = opened(times)

    def call(count: int) -> None:
        with admission.admit(count, image_bytes=PHOTO):
            now_s[0] += 7
            if error:
                raise error

    for before, count in ((0, 3), (0, 4), (1, 3)):
        with admission.admit(before):
            if error:
                with pytest.raises(type(error)):
                    call(count)
            else:
                call(count)

    queues = [[0, 4, 0], [1, 3, 0]]
    assert times.told == [(learnt, 7, queue) for queue in queues if learnt]
    assert 0 == admission._metrics.registry.get_sample_value("hansang_admitted_images")


async def test_who_waits_for_room_comes_in_when_there_is_some(opened):
    """In the order of asking, and never beyond the share of its priority."""
    admission = opened(queue_size=400)
    entered: list[int] = []

    async def wait(number: int, count: int) -> None:
        async with admission.admit_when_free(count, image_bytes=PHOTO, priority=BULK):
            entered.append(number)
            await asyncio.sleep(0)

    with admission.admit(300, priority=BULK):
        waiting = [asyncio.create_task(wait(number, 1 + 298 * number)) for number in (0, 1)]
        await asyncio.sleep(0.01)
        assert [] == entered
    async with asyncio.timeout(5):
        await asyncio.gather(*waiting)
    assert [0, 1] == entered
    assert admission.refusal(400) is None
    assert [0, 0, 0] == admission._by_kind[BULK]


async def test_a_call_on_its_way_keeps_the_batcher_open(opened):
    """It is empty when nobody is in it and nobody comes."""
    admission = opened()
    assert admission._empty.is_set()
    with admission.keep_open():
        assert not admission._empty.is_set()
        with admission.admit(1), admission.keep_open():
            pass
        assert not admission._empty.is_set()
    assert admission._empty.is_set()
    with admission.admit(1):
        assert not admission._empty.is_set()
    assert admission._empty.is_set()
