"""The command line within this process: where a process of its own is not what is tested.

A cold start with torch costs 3 s of CPU.
"""

import io
import runpy
import signal
import subprocess
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

import hansang as command_line
from terminal import run

_HEARD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""What verbs listen for, and pytest must again after them."""


def hansang(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a verb to its end; return its exit code and what it printed."""
    words = [str(argument) for argument in arguments]
    out, err, code = io.StringIO(), io.StringIO(), 0
    before = {number: signal.getsignal(number) for number in _HEARD}
    try:
        with chdir(cwd), redirect_stdout(out), redirect_stderr(err):
            run(lambda: command_line.app(words))
    except SystemExit as ended:
        code = int(ended.code or 0)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def script(file: Path, *arguments: object, cwd: Path) -> str:
    """Run a script as `python FILE …` does; return what it printed."""
    words, out = [str(file), *map(str, arguments)], io.StringIO()
    with chdir(cwd), redirect_stdout(out), patch("sys.argv", words):
        runpy.run_path(words[0], run_name="__main__")
    return out.getvalue()
