"""Threads, executors and conditions of a `Machine`, in the place of the standard library's."""

import heapq
from collections import deque
from collections.abc import Callable
from typing import Any

from greenlet import getcurrent

from tests.service.simulation.machine import Machine, StuckError


class Threads:
    """Stands in for `ThreadPoolExecutor`: so many threads, and the work that waits for them."""

    def __init__(self, max_workers: int, thread_name_prefix: str = "") -> None:
        self._idle = max_workers
        self._most = max_workers
        self._waiting: deque[Callable[[], None]] = deque()
        self._ended = False

    @property
    def busy(self) -> int:
        """Threads that work now."""
        return self._most - self._idle

    def put(self, work: Callable[[], None]) -> None:
        assert not self._ended, "work is given to threads that were ended"
        self._waiting.append(work)
        if self._idle:
            self._idle -= 1
            Machine.current.start_thread(self._work)

    def submit(self, function: Any, *arguments: Any, **named: Any) -> "Work":
        work = Work()
        self.put(lambda: work.do(function, arguments, named))
        return work

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._ended = True

    def _work(self) -> None:
        while self._waiting:
            self._waiting.popleft()()
        self._idle += 1


class Work:
    """Stands in for `concurrent.futures.Future`, as far as it is used."""

    __slots__ = ("_error", "_result", "_told")

    def __init__(self) -> None:
        self._told: Any = None
        self._error: BaseException | None = None

    def do(self, function: Any, arguments: Any, named: Any) -> None:
        try:
            self._result = function(*arguments, **named)
        except Exception as error:
            self._error = error
        self._told(self)

    def add_done_callback(self, told: Any) -> None:
        self._told = told

    def cancelled(self) -> bool:
        return False

    def exception(self) -> BaseException | None:
        return self._error

    def result(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._result


class Thread:
    """Stands in for `threading.Thread`."""

    def __init__(self, target: Callable[[], None], **_: Any) -> None:
        self._target = target

    def start(self) -> None:
        Machine.current.start_thread(self._target)


class Condition:
    """Stands in for `threading.Condition`: threads switch only in `wait`, so there is no lock."""

    def __init__(self) -> None:
        self._waiting: list[Any] = []

    def __enter__(self) -> "Condition":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def wait(self) -> None:
        machine, me = Machine.current, getcurrent()
        if me is machine._hub:
            raise StuckError("the event loop's own thread waits")
        self._waiting.append(me)
        machine._hub.switch()

    def notify_all(self) -> None:
        machine = Machine.current
        woken, self._waiting = self._waiting, []
        machine.random.shuffle(woken)
        for each in woken:
            heapq.heappush(machine._heap, (machine.now, next(machine._order), True, each.switch))
