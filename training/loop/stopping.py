"""How a process is asked to stop: by a signal, or when whoever started it is gone."""

import os
import signal
import threading


def stop_on_signals() -> threading.Event:
    """Return an event that SIGTERM and Ctrl-C set; a second Ctrl-C interrupts at once."""
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
    # Whoever started this process holds the other end; when it dies, by SIGKILL too, input ends.
    # Read without Python's buffer, whose lock a thread must not hold when the process ends.
    while os.read(0, 1024):
        pass
    # Nobody reads any more what is printed, and a broken pipe must not cost the checkpoint.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    ask_to_stop()
