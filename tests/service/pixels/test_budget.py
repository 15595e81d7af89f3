"""One number of bytes for all decoders: granted in turn, never exceeded, given back whole."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import machine
from service.errors import ImageError
from service.pixels import budget as budget_module
from service.pixels.budget import Budget, NoRoomNow, default_bytes, memory_bytes


def refusal(most_bytes: int) -> str:
    """Return a sentence with all that there is."""
    return f"at most {most_bytes}"


def test_what_is_more_than_all_is_refused_and_what_is_not_free_now_is_told():
    """Both without waiting: the one for good, the other until something is given back."""
    budget = Budget(100)
    with pytest.raises(ImageError, match="at most 100") as caught, budget.hold(101, refusal):
        pass
    assert "too_much_memory" == caught.value.kind
    with budget.hold(60, refusal):
        with budget.hold(40, refusal, waits=False):
            assert not budget.fits(1)
        with pytest.raises(NoRoomNow) as later, budget.hold(41, refusal, waits=False):
            pass
    assert 41 == later.value.num_bytes
    assert budget.fits(100)


def test_the_budget_is_never_exceeded_and_all_get_their_turn():
    """Threads that wait are served in their order, whatever they want and whatever fails."""
    budget, lock = Budget(100), threading.Lock()
    held = most = 0

    def work(number: int) -> int:
        nonlocal held, most
        wanted = 1 + number * 37 % 100
        try:
            with budget.hold(wanted, refusal):
                with lock:
                    held += wanted
                    most = max(most, held)
                time.sleep(0.0005)
                with lock:
                    held -= wanted
                if number % 5 == 0:
                    raise ValueError
        except ValueError:
            pass
        return wanted

    with ThreadPoolExecutor(8) as pool:
        assert 20_000 < sum(pool.map(work, range(400)))
    assert 90 < most <= 100
    assert budget.fits(100)


def test_large_ones_are_not_passed_for_ever():
    """While one waits that wants all, smaller ones that come later wait behind it."""
    budget, order = Budget(100), []

    def work(wanted: int) -> None:
        with budget.hold(wanted, refusal):
            order.append(wanted)

    with ThreadPoolExecutor(3) as pool:
        with budget.hold(50, refusal):
            jobs = [pool.submit(work, 100)]
            while budget.fits(1):
                time.sleep(0.001)
            jobs.append(pool.submit(work, 10))
            with pytest.raises(NoRoomNow), budget.hold(10, refusal, waits=False):
                pass
            time.sleep(0.02)
            assert [] == order
        for job in jobs:
            job.result(10)
    assert [100, 10] == order


def test_processes_that_share_a_machine_let_one_at_a_time_have_more(monkeypatch):
    """Each has its part, and a single large picture the whole, under a lock of all."""
    monkeypatch.setattr(budget_module, "_process", None)
    monkeypatch.setattr(budget_module, "default_bytes", lambda: 100)
    lock = threading.Lock()
    budget_module.share(4, lock)
    budget = budget_module.of_process()

    with budget.hold(25, refusal):
        assert not lock.locked()
        with budget.hold(100, refusal):
            assert lock.locked()
    with pytest.raises(ImageError, match="at most 100"), budget.hold(101, refusal):
        pass
    assert not lock.locked()


@pytest.mark.parametrize(
    ("group", "files", "limit"),
    [
        ("0::/", {"memory.max": "1000000"}, 1_000_000),
        ("0::/a/b", {"a/memory.max": "2000", "a/b/memory.max": "max"}, 2_000),
        ("5:memory:/x", {"memory/x/memory.limit_in_bytes": "3000"}, 3_000),
        ("0::/", {"memory.max": "max"}, None),
        ("nonsense", {}, None),
    ],
    ids=["version 2", "above", "version 1", "no limit", "unknown"],
)
def test_a_container_has_what_its_limit_says(group, files, limit, tmp_path, monkeypatch):
    """A quarter of a container's memory is not a quarter of its machine's."""
    mine = tmp_path / "cgroup"
    mine.write_text(group)
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(budget_module, "CGROUP", tmp_path)
    monkeypatch.setattr(machine, "_MINE", mine)

    assert limit == memory_bytes() if limit else memory_bytes() > 2**28
    assert memory_bytes() // 4 == default_bytes()
