"""What a container needs of the service: a light probe, and the cores that it was granted."""

import asyncio
import subprocess
import sys

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


async def test_health_check_of_an_image_asks_as_the_environment_says(publish, serve, monkeypatch):
    """No arguments: another port, and TLS, by HANSANG_PROBE; a proxy is passed by."""
    publish("food")
    server = await serve()
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("HANSANG_PROBE", f"127.0.0.1:{server.port} --timeout-s 5")
    assert (0, "SERVING\n") == await probe()
    monkeypatch.setenv("HANSANG_PROBE", f"127.0.0.1:{server.port} --ca 'no such.pem'")
    code, said = await probe()
    assert 1 == code
    assert "error: cannot read no such.pem" in said
    assert (0, "SERVING\n") == await probe(f"127.0.0.1:{server.port}"), "what is given counts"


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
