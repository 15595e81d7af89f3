"""Faults that were put into the service by hand, to see that the simulation finds each of them.

tests/mutated.py applies them.
"""

from tests.mutated import Mutation

_ADMISSION = "service.batching.admission"
_BATCHER = "service.batching.batcher"
_BYTES = "service.batching.byte_budget"
_DECODER = "service.batching.decoder"
_PIXELS = "service.pixels.budget"
_STREAMS = "service.api.streams"

MUTATIONS: dict[str, Mutation] = {
    # Counters that do not return to zero.
    "a call that fails stays admitted": (
        _ADMISSION,
        "        self._admission._count(-count, priority, image_bytes)",
        "        if not error:\n            self._admission._count(-count, priority, image_bytes)",
    ),
    "a message that is late stays counted": (
        _BYTES,
        "self._limits.pop(limit, None)\n            self._reading -= self._unread",
        "if self._limits.pop(limit, None):\n                self._reading -= self._unread",
    ),
    "a caller that leaves as it is admitted stays counted": (
        _BYTES,
        "if not waiter.cancelled():  # it was admitted",
        "if False:  # it was admitted",
    ),
    "a stream stays open": ("service.api.open_calls", "self._streams -= 1", "pass"),
    "a picture that is refused keeps its memory": (
        _PIXELS,
        "        try:\n            yield\n        finally:\n            with self._changed:",
        "        yield\n        if num_bytes < 900:\n            with self._changed:",
    ),
    "images of callers who left wait on": (
        _BATCHER,
        "                self._loop.call_soon(self._drop_abandoned)",
        "                pass",
    ),
    "photos of callers who left wait on": (
        "service.api.inference",
        "            self._decoder.drop_abandoned()\n",
        "",
    ),
    "a message is given up that is over already": (
        _BYTES,
        "            self._limits.pop(limit, None)\n",
        "",
    ),
    # Limits that do not hold.
    "the queue takes a call too many": (
        _ADMISSION,
        "+ count > self._queue_size",
        "> self._queue_size",
    ),
    "bulk fills the queue": (
        _ADMISSION,
        "return self._admitted[Priority.BULK] + count <= most",
        "return count <= most",
    ),
    "bulk fills the bytes": (_BYTES, "bulk + count <= self._most_bulk and ", ""),
    "bytes are not counted while they are in work": (
        _BYTES,
        "        self._admitted[priority] += change\n",
        "        self._admitted[priority] = 0\n",
    ),
    "decoders take more than there is": (
        _PIXELS,
        "while self._queue[0] is not ticket or num_bytes > self._free:",
        "while self._queue[0] is not ticket:",
    ),
    # Waiting for ever.
    "streams are not told that the queue is free": (
        _ADMISSION,
        "            wake_all(self._waiters)",
        "            pass",
    ),
    "streams are not told that bytes are free": (
        _BYTES,
        "        wake_all(self._bulk_waiters)",
        "        pass",
    ),
    "a run that ends starts no other": (
        _BATCHER,
        "            self._computing -= len(batch)\n            self._dispatch()",
        "            self._computing -= len(batch)",
    ),
    "a decode that fails frees no thread": (
        _DECODER,
        "        self._free += 1\n        if not work.cancelled()",
        "        self._free += work.exception() is None\n        if not work.cancelled()",
    ),
    "a picture that was put aside is forgotten": (
        _DECODER,
        "idle or self._budget.fits",
        "self._free > 99 or self._budget.fits",
    ),
    "threads are not told that memory is free": (
        _PIXELS,
        "                self._free += num_bytes\n                self._changed.notify_all()",
        "                self._free += num_bytes",
    ),
    "a full queue is remembered by an idle server": (
        _ADMISSION,
        "if queued <= max(2 * self.workers, count) or",
        "if queued <= 0 or",
    ),
    # Wrong answers.
    "rows are given to others": (
        _BATCHER,
        "zip(batch, rows, strict=True)",
        "zip(batch, [*rows[1:], rows[0]], strict=True)",
    ),
    "a bad image shifts the rows of the others": (
        _BATCHER,
        "found = [each if isinstance(each, ServiceError) else next(left) for each in decoded]",
        "found = [*left, *(each for each in decoded if isinstance(each, ServiceError))]",
    ),
    "an answer names the version that serves by now": (
        "service.api.classifier",
        "model_version=instance.version)",
        "model_version=self._find(request.model, 0).version)",
    ),
    "answers of a stream overtake": (
        _STREAMS,
        "while working and working[0].done():\n                yield working.popleft()",
        "while working and working[-1].done():\n                yield working.pop()",
    ),
    "a result is set twice": (
        _BATCHER,
        "                if not item.row.done():\n                    item.row.set_result(row)",
        "                item.row.set_result(row)",
    ),
    # Calls that end as they should not.
    "a version is closed under its calls": (_BATCHER, "        await self._empty.wait()\n", ""),
    "a version is closed under a call that waits": (
        _ADMISSION,
        "busy = self._holders or sum(",
        "busy = sum(",
    ),
    "a drain drops what was read": (
        _STREAMS,
        "if reading is not None and reading.done():",
        "if reading is not None and reading.done() and not stopped.done():",
    ),
    "a fault ends its stream": (
        "service.api.interceptors",
        "            except Exception:\n                # A request that fails",
        "            except ZeroDivisionError:\n                # A request that fails",
    ),
    "a refusal does not say when": (
        "service.api.statuses",
        "    if error.retry_after_s is not None:\n        details",
        "    if error.retry_after_s:\n        details",
    ),
    "a quota says a time that has passed": (
        "service.api.auth",
        "return max(-self._left / self.images_per_s, 0.001)",
        "return self._left / self.images_per_s - 0.001",
    ),
    "a standstill counts as a run that hangs": (
        "service.server.watchdog",
        "return min(self._last_s - last_s, 2 * self.tick_s)",
        "return self._last_s - last_s",
    ),
    "a model that is being loaded makes the server a starting one": (
        "service.models.pool",
        "            self._seen.pop(name, None)\n            await self._follow(",
        "            self._seen.pop(name, None)\n            self.unloaded.discard(name)\n"
        "            await self._follow(",
    ),
    "a refused call is not counted": (
        _ADMISSION,
        "            self._metrics.rejected_images.labels(refusal.reason).inc(count)\n",
        "",
    ),
}  # fmt: skip
