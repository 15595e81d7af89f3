"""What a container needs of the service: a light probe, and the cores that it was granted."""

import asyncio
import os
import subprocess
import sys

from tests.paths import ROOT
from tests.service.api.test_security import issue, needs_openssl


async def probe(*arguments: str, **environment: str) -> tuple[int, str]:
    """Run the probe as an orchestrator does; return its exit code and what it printed."""
    ran = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "service.probe", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
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


@needs_openssl
async def test_health_check_of_an_image_asks_a_server_with_tls(publish, serve, tmp_path):
    """By its authority, the name in its certificate, and with mTLS by a certificate of its own."""
    publish("food")
    certificate, key = issue(tmp_path / "tls", "server")
    authority = issue(tmp_path / "authority", "authority")
    caller = issue(tmp_path / "caller", "caller", signer=authority)
    settings = {"tls_certificate": certificate, "tls_key": key}
    plain, mutual = await serve(**settings), await serve(**settings, tls_client_ca=authority[0])

    async def asked(server, arguments: str) -> tuple[int, str]:
        return await probe(HANSANG_PROBE=f"127.0.0.1:{server.port} {arguments}")

    answers = await asyncio.gather(
        asked(plain, f"--ca {certificate} --server-name localhost"),
        asked(mutual, f"--ca {certificate} --certificate {caller[0]} --key {caller[1]}"),
        asked(plain, f"--ca {authority[0]} --timeout-s 0.5"),
        asked(mutual, f"--ca {certificate} --timeout-s 0.5"),
    )

    assert [(0, "SERVING\n")] * 2 == answers[:2]
    assert [1, 1] == [code for code, _ in answers[2:]]
    assert all(said.startswith(("UNAVAILABLE", "DEADLINE_EXCEEDED")) for _, said in answers[2:])


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
