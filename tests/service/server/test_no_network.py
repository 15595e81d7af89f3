"""What serves asks nothing of a network but its callers: it runs where there is none."""

import shutil
import subprocess
import sys

import pytest

from benchmarks.rig import free_port
from service.sessions import openvino
from tests.paths import ROOT

ALONE = """
import fcntl, pathlib, socket, struct
with socket.socket() as any_socket:  # 0x8914 sets flags, of which 1 is IFF_UP
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh22x", b"lo", 1))
def unreachable():
    lines = pathlib.Path("/proc/net/snmp").read_text().splitlines()
    names, values = (line.split() for line in lines if line.startswith("Ip:"))
    return int(values[names.index("OutNoRoutes")])
"""
"""In a network of its own, whose loopback comes up; the kernel counts what would have left it."""

SERVES = """
import subprocess, sys, time
from service.client import Classifier
repository, port, photo, engine = sys.argv[1:]
command = [sys.executable, "-m", "hansang", "serve", "--repository", repository, "--port", port,
           "--host", "127.0.0.1", "--device", "cpu", "--drain-delay", "0", "--cpu-engine", engine]
server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
assert any("serving food version 1" in line for line in server.stderr)
with Classifier(f"127.0.0.1:{port}") as classifier:
    print(classifier.classify([pathlib.Path(photo).read_bytes()])[0].classes[0].label)
time.sleep(1)
server.terminate()
server.wait(30)
"""

CALLS_OUT = """
import contextlib
with socket.socket(type=socket.SOCK_DGRAM) as out, contextlib.suppress(OSError):
    out.sendto(b"telemetry", ("192.0.2.1", 53))
"""


def alone(work: str, *arguments: str) -> list[str]:
    """Run this where there is no network; return what it says, and how often it called out."""
    if not shutil.which("unshare") or subprocess.run(["unshare", "-n", "true"]).returncode:
        pytest.skip("a network of its own needs root")
    done = subprocess.run(
        ["unshare", "-n", sys.executable, "-c", f"{ALONE}{work}\nprint(unreachable())", *arguments],
        cwd=ROOT, env={"PATH": "/usr/bin:/bin"}, stdout=subprocess.PIPE, text=True, check=True,
        timeout=100,
    )  # fmt: skip
    return done.stdout.split()


def test_a_server_calls_nobody(publish, photo, tmp_path):
    """From its start to its end; a process that does call out is counted."""
    publish("food")
    picture = tmp_path / "red.jpg"
    picture.write_bytes(photo("red"))

    engine = "openvino" if openvino.installed() else "onnxruntime"
    repository, port = str(tmp_path / "models"), str(free_port())

    assert ["1"] == alone(CALLS_OUT)
    assert ["red", "0"] == alone(SERVES, repository, port, str(picture), engine)
