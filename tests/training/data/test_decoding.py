"""Processes that decode photos: they end with who started them, and none waits for a killed one."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# Python runs it as it starts, in the processes that decode, too.
_SLOW = """
import sys, time
sys.path.insert(0, {root!r})
from training.data import decoding
decode = decoding.load_square

def slowly(content, side):
    time.sleep(0.05)
    return decode(content, side)

decoding.load_square = slowly
decoding._FEW = 0
"""

# A script as people write them: it does not ask whether it is the main one.
_BUILDER = """
import sys
from pathlib import Path
from training.errors import DataError
from training.data.prepare import prepare

try:
    prepare(
        Path(sys.argv[1]), 32, cache_root=Path(sys.argv[2]),
        progress=lambda done, total: print(done, flush=True),
    )
except DataError as error:
    print(error, flush=True)
"""


@pytest.fixture
def building(folder, tmp_path):
    """Return a process in the midst of a build, and the processes that decode for it."""
    root = folder({"train/a": 400, "train/b": 400, "val/a": 9, "val/b": 9})
    (tmp_path / "builder.py").write_text(_BUILDER)
    (tmp_path / "sitecustomize.py").write_text(_SLOW.format(root=str(Path.cwd())))
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "builder.py"), str(root), str(tmp_path / "cache")],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert process.stdout.readline().strip() == "1"
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    decoders = [int(pid) for pid in children if "spawn_main" in _command(int(pid))]
    assert decoders
    yield process, decoders
    process.kill()
    process.communicate()


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def test_a_killed_builder_leaves_no_process(building):
    """Whoever decodes ends with the builder, so that the next one has the folder to itself."""
    process, decoders = building
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    until = time.monotonic() + 10
    while any("spawn_main" in _command(pid) for pid in decoders):
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_stop_that_all_are_sent_is_the_builders(building):
    """A container that stops sends every process SIGTERM: no photo is taken for a bad one."""
    process, decoders = building
    for pid in decoders:
        os.kill(pid, signal.SIGTERM)
    time.sleep(0.5)
    assert all("spawn_main" in _command(pid) for pid in decoders)
    assert process.poll() is None


def test_a_decoder_that_is_killed_is_said(building):
    """As by the system when memory runs out: a sentence, not a wait without an end."""
    process, decoders = building
    os.kill(decoders[0], signal.SIGKILL)
    assert "was killed, most likely for want of memory" in process.communicate(timeout=60)[0]


@pytest.mark.parametrize("which", [0, 1])
def test_a_decoder_that_is_killed_while_it_waits_holds_up_no_other(which):
    """One of two that wait holds the lock of the tasks: the other is ended, lock or none."""
    script = f"""
import os, signal, time
from training.data import decoding

decoding.num_cores = lambda: 2
started = []
start = decoding._Process.start
decoding._Process.start = lambda process: (start(process), started.append(process.pid))
try:
    with decoding.workers(5000) as pool:
        list(pool.map(int, range(9)))
        time.sleep(0.5)
        os.kill(started[{which}], signal.SIGKILL)
        while True:
            list(pool.map(int, range(9)))
except decoding.DataError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60
    )
    assert "a process that decodes photos was killed" in done.stdout, done.stderr
