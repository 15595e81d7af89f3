"""How a process is asked to stop: by a signal, or when the process that started it has ended."""

import os
import signal
import threading


def stop_on_signals() -> threading.Event:
    """Return an event that SIGTERM and Ctrl-C set; a second Ctrl-C raises KeyboardInterrupt."""
    stop = threading.Event()

    def handle(number: int, frame: object) -> None:  # noqa: ARG001
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)
    return stop


def ask_to_stop() -> None:
    """Ask this process to stop, as SIGTERM does."""
    os.kill(os.getpid(), signal.SIGTERM)


def stop_at_end_of_input() -> None:
    """Ask this process to stop, as SIGTERM does, when its standard input ends."""
    # The process that started this one holds the other end. When that dies, even by SIGKILL, input
    # ends. Read without Python's buffer: no thread may hold its lock when the process ends.
    while os.read(0, 1024):
        pass
    # Output may go to a broken pipe now, and an error there must not cost the checkpoint.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    ask_to_stop()
