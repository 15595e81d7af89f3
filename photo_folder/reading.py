"""Files that may fail for a moment: a network drive that is away for a second costs no photo."""

import errno
import os
import time
from collections.abc import Callable
from typing import TypeVar

from service.pixels.formats import MAX_BYTES

T = TypeVar("T")

_PAUSES_S = (0.05, 0.25, 1.0)
_PASSING = frozenset({
    errno.EIO, errno.EAGAIN, errno.EINTR, errno.EBUSY, errno.ESTALE, errno.ETIMEDOUT,
    errno.ECONNRESET, errno.ECONNABORTED, errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET,
    errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.EREMOTEIO, errno.ENOTCONN, errno.EMFILE,
    errno.ENFILE, errno.ENOMEM,
})  # fmt: skip
_PIECE = 2**16
"""Bytes that are read at once, at the least."""
"""Errors that another try may not meet."""


def retried(read: Callable[[], T]) -> T:
    """Return what `read` returns; an error that may pass is waited for, 1.3 s in all.

    Raises:
        OSError: It did not pass, or is of another kind, such as missing rights.
    """
    for pause_s in _PAUSES_S:
        try:
            return read()
        except OSError as error:
            if error.errno not in _PASSING:
                raise
        time.sleep(pause_s)
    return read()


def content(path: str, most: int = MAX_BYTES) -> bytes:
    """Return a file's bytes, at most so many, whatever it says of its size.

    A sparse file may say that it has terabytes, a file of the system that it has nothing, and one
    that is still copied grows.

    Raises:
        OSError: As `retried`; EFBIG if the file has more. One that says so is not read.
    """

    def read() -> bytes:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - a Path takes as long as the reading
            num_bytes = os.fstat(file.fileno()).st_size
            if num_bytes > most:
                raise _too_large(f"{num_bytes} bytes", most)
            pieces, left = [], most + 1
            # One more than there should be: a file ends where nothing comes.
            while left and (piece := file.read(min(left, max(num_bytes + 1, _PIECE)))):
                pieces.append(piece)
                left -= len(piece)
        if not left:
            raise _too_large(f"more than the {num_bytes} bytes that it says", most)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    return retried(read)


def _too_large(has: str, most: int) -> OSError:
    return OSError(errno.EFBIG, f"it has {has}; at most {most} are accepted: save it smaller")


def reason(error: OSError) -> str:
    """Return what the system says, without the path."""
    return error.strerror or str(error) or type(error).__name__
