"""A machine in virtual time: one event loop, and threads that switch only where a seed says.

    heap of (time, what) ─► clock jumps there ─► callbacks of the loop, until none is ready
                                └─► a thread goes on, until it sleeps, waits or ends

Threads are greenlets: they run real code that blocks, one at a time, and every run with the same
seed is the same run. asyncio's own tasks, futures, locks and timeouts run on the loop unchanged.
"""

import asyncio
import heapq
import itertools
import sys
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from random import Random
from typing import Any

from greenlet import getcurrent, greenlet


class StuckError(AssertionError):
    """Nothing will ever happen again, or too much does, and somebody still waits."""


class Handle:
    """What `call_soon` and `call_at` return."""

    __slots__ = ("arguments", "callback", "cancelled", "context")

    def __init__(self, callback: Any, arguments: Any, context: Context) -> None:
        self.callback = callback
        self.arguments = arguments
        self.context = context
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True
        self.callback = self.arguments = None


class Machine(asyncio.AbstractEventLoop):
    """A clock, an event loop and threads. One at a time is current in a process.

    Attributes:
        now: Seconds since it started.
        random: Where the seed enters; the only source of chance.
        faults: What the loop was told of: tasks that raised and nobody looked, and the like.
        rules: Called each time the loop is done with what has come, before the clock moves on.
    """

    current: "Machine"

    def __init__(self, random: Random, *, turn_s: float, grain_s: float) -> None:
        """Start at 0 s.

        Args:
            random: The seed's.
            turn_s: What a turn of the loop takes.
            grain_s: Sleeps end at multiples of it, so that much happens at once.
        """
        Machine.current = self
        self.now = 0.0
        self.random = random
        self.faults: list[str] = []
        self.rules: Callable[[], None] = lambda: None
        self._turn_s = turn_s
        self._grain_s = grain_s
        self._ready: deque[Handle] = deque()
        # Time, order of entry, whether a thread goes on then, and what is to be done.
        self._heap: list[tuple[float, int, bool, Any]] = []
        self._order = itertools.count()
        self._hub = getcurrent()

    # What the machine's owner calls.

    def run(self, main: Any, *, until_s: float) -> Any:
        """Run a coroutine to its end, and return what it returns.

        Raises:
            StuckError: It has not ended by then, or nothing is left that could happen.
        """
        asyncio.events._set_running_loop(self)
        hooks = sys.get_asyncgen_hooks()
        # A generator that is dropped half way is closed, as every event loop does.
        sys.set_asyncgen_hooks(finalizer=lambda dropped: self.create_task(dropped.aclose()))
        try:
            task = self.create_task(main)
            while not task.done():
                if self._ready:
                    self._turn()
                elif not self._heap:
                    raise StuckError("nothing is left to happen, and somebody waits")
                else:
                    self.rules()
                    self._jump()
                if self.now > until_s:
                    raise StuckError(f"at {until_s:g} s it has not ended")
            while self._ready:  # what the end itself set off
                self._turn()
            return task.result()
        finally:
            sys.set_asyncgen_hooks(*hooks)
            asyncio.events._set_running_loop(None)

    def stand_still(self, seconds: float) -> None:
        """Let time pass outside only: no callback is run, and no thread computes."""
        self.now += seconds
        self._heap = [
            (at + seconds * is_thread, order, is_thread, what)
            for at, order, is_thread, what in self._heap
        ]
        heapq.heapify(self._heap)

    def sleep(self, seconds: float) -> None:
        """Let the current thread sleep, or compute."""
        me = getcurrent()
        if me is self._hub:
            raise StuckError("the event loop's own thread sleeps")
        at = self.now + seconds
        if self._grain_s:
            at += -at % self._grain_s
        heapq.heappush(self._heap, (at, next(self._order), True, me.switch))
        self._hub.switch()

    def start_thread(self, target: Callable[[], None]) -> None:
        """Start a thread a moment from now."""
        begin = greenlet(target, self._hub).switch
        delay_s = self.random.random() * 2e-4
        heapq.heappush(self._heap, (self.now + delay_s, next(self._order), True, begin))

    def _turn(self) -> None:
        ready = self._ready
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle.cancelled:
                handle.context.run(handle.callback, *handle.arguments)
        self.now += self._turn_s

    def _jump(self) -> None:
        heap = self._heap
        at, _, is_thread, what = heapq.heappop(heap)
        if not is_thread and what.cancelled:
            return
        self.now = max(self.now, at)
        while True:
            if is_thread:
                what()
            elif self._grain_s:
                self._after(int(self.random.random() * 8), what)
            elif not what.cancelled:
                self._ready.append(what)
            if not heap or heap[0][0] > self.now:
                break
            at, _, is_thread, what = heapq.heappop(heap)

    def _after(self, turns: int, timer: Handle) -> None:
        """Let a timer go off some turns from now: between any two steps of what happens at once."""
        if turns:
            self.call_soon(self._after, turns - 1, timer)
        elif not timer.cancelled:
            timer.context.run(timer.callback, *timer.arguments)

    # What asyncio calls.

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> Any:
        handle = Handle(callback, args, copy_context() if context is None else context)
        self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_at(
        self, when: float, callback: Any, *args: Any, context: Context | None = None
    ) -> Any:
        handle = Handle(callback, args, copy_context() if context is None else context)
        if self._grain_s:
            when += -when % self._grain_s
        heapq.heappush(self._heap, (when, next(self._order), False, handle))
        return handle

    def call_later(
        self, delay: float, callback: Any, *args: Any, context: Context | None = None
    ) -> Any:
        return self.call_at(self.now + delay, callback, *args, context=context)

    def create_future(self) -> Any:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: Any = None, context: Context | None = None) -> Any:
        return asyncio.Task(coro, loop=self, context=context)

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:
        future = asyncio.Future(loop=self)

        def work() -> None:
            try:
                outcome = (future.set_result, func(*args))
            except BaseException as error:
                outcome = (future.set_exception, error)
            if not future.cancelled():
                self.call_soon_threadsafe(_set, future, *outcome)

        if executor is None:
            self.start_thread(work)
        else:
            executor.put(work)
        return future

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.faults.append(f"{context.get('message')}: {context.get('exception')!r}")


def _set(future: Any, set_outcome: Any, value: Any) -> None:
    if not future.done():
        set_outcome(value)
