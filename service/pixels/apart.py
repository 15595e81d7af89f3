"""Pictures whose decoder keeps the interpreter's lock for long, decoded in helper processes.

    caller's thread ─► side, length, bytes ─► helper (load_square) ─► pixels, or what is wrong

A helper takes one picture at a time. It ends after a minute or two without one, when its server has
ended, or with a decoder that crashes: then the picture is refused, and nothing else is lost.
"""

import json
import os
import select
import struct
import subprocess
import sys
from contextlib import suppress
from queue import Empty, LifoQueue
from time import monotonic
from typing import IO, cast

import numpy as np
from numpy.typing import NDArray

from service.errors import ImageError
from service.pixels.budget import Budget
from service.pixels.preprocessing import load_square

_IDLE_S = 60.0
"""A helper that was idle for longer gets no picture; it ends itself after twice as long."""
_TIMEOUT_S = 30.0
"""Longest time for a picture; the largest that memory allows took 2 s."""
_HEAD = struct.Struct("<IQ")
"""Of a picture: the side of the square and the bytes that follow. Of an answer: 1 if it is an
error in JSON and 0 if it is pixels, and the bytes that follow."""


class Apart:
    """Helper processes, started as they are needed: one for each thread that waits for one."""

    def __init__(self) -> None:
        """Start without any."""
        self._idle: LifoQueue[_Helper] = LifoQueue()

    def load_square(self, data: bytes, side: int) -> NDArray[np.uint8]:
        """Return what `preprocessing.load_square` returns for a picture; it raises the same.

        Raises:
            ImageError: Also where decoding it ends the helper, or takes longer than 30 s.
            OSError: No process can be started.
        """
        helper = self._ready()
        try:
            failed, content = helper.ask(data, side)
        except BaseException:
            helper.close()
            raise
        self._idle.put(helper)
        if failed:
            why = json.loads(content)
            raise ImageError(why["sentence"], kind=why["kind"])
        return np.frombuffer(content, np.uint8).reshape(side, side, 3)

    def close(self) -> None:
        """End the helpers that are idle."""
        with suppress(Empty):
            while True:
                self._idle.get_nowait().close()

    def _ready(self) -> "_Helper":
        """Return a helper that is idle, or a new one."""
        with suppress(Empty):
            while (helper := self._idle.get_nowait()).ended:
                helper.close()
            return helper
        return _Helper()


class _Helper:
    """One process, and the pipes to it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # It imports what this process does, from wherever that was found.
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            # Ctrl-C is for the server, which drains.
            start_new_session=True,
        )
        self._pipes = cast(IO[bytes], self._process.stdin), cast(IO[bytes], self._process.stdout)
        self._used_s = monotonic()

    @property
    def ended(self) -> bool:
        """Return whether it has ended, or is about to."""
        return self._process.poll() is not None or monotonic() > self._used_s + _IDLE_S

    def close(self) -> None:
        """End it, at once."""
        self._process.kill()
        self._process.communicate()

    def ask(self, data: bytes, side: int) -> tuple[int, bytes]:
        """Send a picture and return the answer; it must be closed where none comes.

        Raises:
            ImageError: It ended, or its time has passed.
        """
        to, answers = self._pipes
        with suppress(BrokenPipeError):  # its answer, which is missing then, tells the same
            to.write(_HEAD.pack(side, len(data)))
            to.write(data)
            to.flush()
        ready = select.poll()
        ready.register(answers, select.POLLIN)
        if not ready.poll(1000 * _TIMEOUT_S):
            raise ImageError(
                f"decoding the image takes longer than {_TIMEOUT_S:.0f} s: shrink it",
                kind="too_many_pixels",
            )
        head = answers.read(_HEAD.size)
        if len(head) < _HEAD.size:
            raise ImageError(
                "the image is broken: its decoder crashed"
                f" (exit code {self._process.wait(_TIMEOUT_S)}); save it again, as JPEG"
            )
        failed, length = _HEAD.unpack(head)
        self._used_s = monotonic()
        return failed, answers.read(length)


def main() -> None:
    """Decode what comes on stdin until nothing comes any more."""
    # Whoever asks holds the memory for it.
    unbounded = Budget(2**62)
    pictures, answers = sys.stdin.buffer, sys.stdout.buffer
    while select.select([pictures], [], [], 2 * _IDLE_S)[0] and (head := pictures.read(_HEAD.size)):
        side, length = _HEAD.unpack(head)
        try:
            found = load_square(pictures.read(length), side, budget=unbounded)
            failed, content = 0, found.tobytes()
        except ImageError as error:
            why = {"sentence": str(error), "kind": error.kind}
            failed, content = 1, json.dumps(why).encode()
        answers.write(_HEAD.pack(failed, len(content)) + content)
        answers.flush()


if __name__ == "__main__":
    main()
