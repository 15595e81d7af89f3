"""What every verb shares: errors meant for people, JSON for scripts, progress with an ETA.

Results go to stdout; progress and errors go to stderr, so `--json` output can be piped.
"""

import atexit
import gc
import io
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

_PLAIN_INTERVAL_S = float(os.environ.get("HANSANG_PROGRESS_S", "5"))
"""Seconds between two lines of progress where there is no terminal."""


_ESCAPED = {code: repr(chr(code))[1:-1] for code in (*range(32), 127)}
"""A line break in a name would make two records of one."""


class UserError(Exception):
    """Something a person can mend: what is wrong, where, and what to do.

    The command line prints it without a traceback and exits with its code.
    """

    exit_code = 1


def run(command: Callable[[], object]) -> None:
    """Run a command line; an error meant for people becomes one line and an exit code."""
    # Python ends with a search for garbage through all that was imported: 1 s of CPU with torch.
    atexit.register(gc.freeze)
    # Closed by whoever started this: then there is no stream, and print would take the other one.
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115 - until the end
    sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115
    # A name that is no Unicode is printed escaped; it must not cost the answers of the others.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    # Without a home it tells users at length where it keeps its fonts.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    try:
        command()
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # Whoever read has gone, as `head` does.
        _discard_output()
        sys.exit(1)
    except OSError as error:
        if error.filename is None and _output_fails():
            print(f"error: cannot write the output: {error.strerror}", file=sys.stderr)
            _discard_output()
            sys.exit(1)
        if missing := _missing_temporary_place():
            print(f"error: {missing}; mount one on /tmp, or let TMPDIR name it", file=sys.stderr)
            sys.exit(1)
        # The system refused something that nobody foresaw; with no path, a traceback says more.
        if error.filename is None:
            raise
        print(f"error: {os.fsdecode(error.filename)}: {error.strerror}", file=sys.stderr)
        sys.exit(1)


def _output_fails() -> bool:
    """Return whether standard output takes nothing: its disk is full, for example."""
    try:
        print(flush=True)
    except OSError:
        return True
    return False


def _missing_temporary_place() -> str:
    """Return why no file can be kept for a while, which torch and matplotlib need to be imported.

    Empty if one can be.
    """
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        return str(error.strerror)
    return ""


def _discard_output() -> None:
    """Send what Python has left to say, when it ends, nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def settings(items: Sequence[str]) -> dict[str, str]:
    """Read the values of `--set KEY=VALUE`.

    Raises:
        typer.BadParameter: One has no `=`.
    """
    import typer

    found = {}
    for item in items:
        key, separator, value = item.partition("=")
        if not separator:
            raise typer.BadParameter(f"--set takes KEY=VALUE, got {item!r}")
        found[key] = value
    return found


class Progress(Protocol):
    """A long piece of work reports how far it is."""

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Report `done` of `total` units; `note` is a short current figure."""


def no_progress(done: int, total: int, note: str = "") -> None:
    """Report nothing: the default of every function that takes a `Progress`."""


@contextmanager
def progress(label: str) -> Iterator[Progress]:
    """Show a bar with an ETA on a terminal, and a plain line every few seconds elsewhere."""
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        with _bar(label) as report:
            yield report
    else:
        yield _PlainLines(label)


@contextmanager
def _bar(label: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with RichProgress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=None, note="")

        def report(done: int, total: int, note: str = "") -> None:
            bar.update(task, completed=done, total=total, note=note)

        yield report


class _PlainLines:
    """Progress for logs: one line every few seconds, and one at the end."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._start: tuple[float, int] | None = None
        self._last_s = 0.0

    def __call__(self, done: int, total: int, note: str = "") -> None:
        now_s = time.monotonic()
        # The rate is counted from the first report: a resumed run begins in the middle.
        if self._start is None:
            self._start = (now_s, done)
            self._last_s = now_s
        start_s, start_done = self._start
        finished = done >= total
        if not finished and now_s - self._last_s < _PLAIN_INTERVAL_S:
            return
        self._last_s = now_s
        parts = [f"{self._label}: {done}/{total}"]
        if not finished and done > start_done:
            remaining_s = (now_s - start_s) * (total - done) / (done - start_done)
            parts.append(f"{remaining_s:.0f} s left")
        if note:
            parts.append(note)
        print(", ".join(parts), file=sys.stderr, flush=True)


def say(message: str) -> None:
    """Tell the person at the terminal something that is not the result."""
    print(message, file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """Print a result for scripts, on stdout."""
    print(json.dumps(value, ensure_ascii=False, indent=2))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a result for people, on stdout; numbers are aligned to the right.

    Where there is no terminal, each row is one line, with tabs between its cells.
    """
    if not sys.stdout.isatty():
        print(title)
        for cells in (columns, *rows):
            print("\t".join(str(cell).translate(_ESCAPED) for cell in cells))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        numeric = all(isinstance(row[index], int | float) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        # A class may be named "[red]", which rich would take for a colour.
        table.add_row(*(escape(str(cell).translate(_ESCAPED)) for cell in row))
    Console().print(table)
