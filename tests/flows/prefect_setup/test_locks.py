"""One GPU, one training: whoever else wants it waits, also when the first was killed."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from flows.prefect_setup.survival import gpu, holding
from tests.paths import ROOT

FLOW = """
import subprocess, sys, time
from flows.prefect_setup.survival import gpu, holding
with holding(gpu(), lambda text: print(text, flush=True)) as locks:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1.5)"], pass_fds=locks)
    print("holds", child.pid, flush=True)
    child.wait()
"""


def start(folder: Path, device: str) -> subprocess.Popen:
    """Begin a flow that trains on a GPU for a second and a half."""
    environment = {**os.environ, "HANSANG_LOCKS": str(folder), "HANSANG_GPU": device}
    return subprocess.Popen([sys.executable, "-c", FLOW], env=environment, text=True,
                            stdout=subprocess.PIPE)  # fmt: skip


def test_a_second_training_waits_until_the_child_of_a_killed_one_has_ended(tmp_path):
    """The flow is killed; its training holds the GPU until it has saved, and then lets go."""
    with start(tmp_path, "0") as first:
        said = first.stdout.readline().split()
        child = int(said[1])
        first.send_signal(signal.SIGKILL)
        first.wait()
        with start(tmp_path, "0") as second:
            assert "waiting for it to end" in second.stdout.readline()
            assert second.stdout.readline().startswith("holds")
            assert _ended(child)


def _ended(pid: int) -> bool:
    """Return whether a process is gone, or only waits for its end to be noticed."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_another_gpu_is_free(tmp_path, monkeypatch):
    """Two GPUs, two trainings, at once; no GPU, no lock; and afterwards both are free again."""
    monkeypatch.setenv("HANSANG_LOCKS", str(tmp_path))
    began_s = time.monotonic()
    with holding("gpu-0", print), holding("gpu-1", print), holding(None, print) as none:
        assert () == none
        assert [True, True, False] == [_is_locked(tmp_path, f"gpu-{n}") for n in range(3)]
    assert [False, False] == [_is_locked(tmp_path, f"gpu-{n}") for n in range(2)]
    assert time.monotonic() - began_s < 1


def _is_locked(folder: Path, name: str) -> bool:
    """Return whether somebody holds the lock of this name."""
    with (folder / f"hansang-{os.getuid()}-{name}.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def test_the_pool_says_which_gpu_it_is(monkeypatch):
    """HANSANG_GPU first, then the first of CUDA_VISIBLE_DEVICES; an empty one is none."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4")
    monkeypatch.setenv("HANSANG_GPU", "1")
    assert "gpu-1" == gpu()
    monkeypatch.delenv("HANSANG_GPU")
    assert "gpu-3" == gpu()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu() is None


CLAIM = """
import os, sys
from flows.prefect_setup.survival import gpu_of_worker
from terminal import UserError
try:
    lock = gpu_of_worker(2)
    print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
    sys.stdin.read()
except UserError as error:
    print(error, flush=True)
"""


def test_each_worker_takes_a_gpu_of_its_own(tmp_path):
    """Two GPUs, three workers: the third is told; who takes the place of a killed one gets its."""
    env = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
    env |= {"HANSANG_LOCKS": str(tmp_path), "PYTHONPATH": str(ROOT)}

    def worker() -> tuple[subprocess.Popen, str]:
        started = subprocess.Popen([sys.executable, "-c", CLAIM], env=env, text=True,
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
        return started, started.stdout.readline().strip()

    first, one = worker()
    second, two = worker()
    third, refused = worker()
    assert ("0", "1") == (one, two)
    assert "each of the 2 GPUs of this machine has a worker" in refused
    first.kill()
    first.wait()
    fourth, again = worker()
    assert "0" == again
    for each in (second, third, fourth):
        each.communicate(timeout=10)
