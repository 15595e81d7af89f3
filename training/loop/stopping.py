"""How a process is asked to stop: by a signal, or when the process that started it has ended."""

import os
import signal
import threading
from collections.abc import Sequence

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
"""SIGUSR1 is what batch systems send before a job's time is up, SIGHUP a terminal that closes."""


def stop_on_signals() -> threading.Event:
    """Return an event that `SIGNALS` set; a second Ctrl-C raises KeyboardInterrupt.

    A SIGHUP that is ignored stays ignored: `nohup` has asked for it.
    """
    stop = threading.Event()
    terminals = [number for number in (1, 2) if os.isatty(number)]

    def handle(number: int, frame: object) -> None:  # noqa: ARG001
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        if number == signal.SIGHUP:
            _silence(terminals)
        stop.set()

    for number in SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handle)
    return stop


def _silence(outputs: Sequence[int]) -> None:
    """Send outputs nowhere: an error in writing to them must not cost the checkpoint."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in outputs:
        os.dup2(nowhere, number)


def ask_to_stop() -> None:
    """Ask this process to stop, as SIGTERM does."""
    os.kill(os.getpid(), signal.SIGTERM)


def stop_at_end_of_input() -> None:
    """Ask this process to stop, as SIGTERM does, when its standard input ends."""
    # The process that started this one holds the other end. When that dies, even by SIGKILL, input
    # ends. Read without Python's buffer: no thread may hold its lock when the process ends.
    while os.read(0, 1024):
        pass
    # Output may go to a broken pipe now.
    _silence((1, 2))
    ask_to_stop()
