"""A worker in a container: it ends only when a training run that it began has saved."""

import os
import signal
import subprocess
import sys
import time

from tests.paths import ROOT

TRAINING = """
import signal, sys, time
from pathlib import Path
# One SIGTERM is a wish, a second one a hurry: this one must hear none, its flow is its parent.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(Path("hurried").touch()))
Path("training-runs").touch()
sys.stdin.read()
time.sleep(1)
Path("saved").touch()
"""
FLOW = """
import subprocess, sys
process = subprocess.Popen(
    [sys.executable, "-m", "training"], stdin=subprocess.PIPE, start_new_session=True
)
process.wait()
"""
WORKER = """
import subprocess, sys
subprocess.Popen([sys.executable, "flow.py"], start_new_session=True).wait()
"""
RUN = """
import sys
from flows.prefect_setup.worker import run
print(run([sys.executable, "worker.py"]))
"""


def test_training_saves_before_the_worker_is_gone(tmp_path):
    """SIGTERM ends worker and flow at once; the first process stays until training has saved."""
    for name, code in {"training": TRAINING, "flow": FLOW, "worker": WORKER}.items():
        (tmp_path / f"{name}.py").write_text(code)
    first = subprocess.Popen(
        [sys.executable, "-c", RUN],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    # `-m training` takes the file in its own folder, and not the package of the project.
    try:
        end_s = time.monotonic() + 30
        while not (tmp_path / "training-runs").exists():
            assert time.monotonic() < end_s
            time.sleep(0.05)
        first.send_signal(signal.SIGTERM)
        out, _ = first.communicate(timeout=30)
    finally:
        first.kill()
    assert (tmp_path / "saved").exists()
    assert not (tmp_path / "hurried").exists()
    assert f"{-signal.SIGTERM}\n" == out
