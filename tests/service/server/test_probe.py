"""What a container needs of the service: a light probe, and the cores that it was granted."""

import asyncio
import subprocess
import sys

import pytest

from service import config
from tests.paths import ROOT


async def probe(*arguments: str) -> tuple[int, str]:
    """Run the probe as an orchestrator does; return its exit code and what it printed."""
    ran = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "service.probe", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
    )
    return ran.returncode, ran.stdout + ran.stderr


async def test_probe_tells_serving_from_draining_and_from_gone(publish, serve):
    """Exit 0 while health says SERVING; 1 with the reason while it drains and after it ended."""
    publish("food")
    server = await serve()
    address = f"127.0.0.1:{server.port}"
    assert (0, "SERVING\n") == await probe(address)
    await server.drain()
    assert (1, "NOT_SERVING\n") == await probe(address)
    await server.stop()
    code, said = await probe(address, "--timeout-s", "1")
    assert 1 == code
    assert "UNAVAILABLE" in said


def test_probe_imports_nothing_heavy():
    """It runs every few seconds beside the server: no onnxruntime, no numpy, no server."""
    code = (
        "import sys, service.probe;"
        "print([m for m in sys.modules if m.split('.')[0] in"
        " ('onnxruntime', 'numpy', 'PIL', 'torch', 'fsspec') or m == 'service.server.server'])"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "[]\n" == ran.stdout, ran.stderr


async def test_probe_says_which_file_it_cannot_read():
    """A wrong path is a sentence, and not a traceback."""
    code, said = await probe("--ca", "no/such.pem")
    assert 1 == code
    assert "error: cannot read no/such.pem" in said


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "9900000 100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "250000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({}, 8),
    ],
)
def test_cores_are_those_that_the_container_was_granted(tmp_path, monkeypatch, files, cores):
    """A limit of CPU time counts as cores, rounded up; without one it is what the machine has."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(config, "_CGROUP", tmp_path)
    monkeypatch.setattr(config.os, "sched_getaffinity", lambda _: set(range(8)))
    assert cores == config.num_cores()
