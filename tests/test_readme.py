"""The README's walk runs as it stands: its shell lines, then its Python, in an empty folder."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flows.local.demo import free_port
from tests.paths import ROOT

README = (ROOT / "README.md").read_text()


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.mark.timeout(900)
def test_the_walk_through_runs(tmp_path: Path) -> None:
    """Every `bash` block and the `python` block run in order, as a reader would run them."""
    port = free_port()
    shell = "set -e\ntrap 'kill $(jobs -p)' EXIT\n" + "".join(_blocks("bash"))
    python = "".join(_blocks("python"))
    (tmp_path / "call.py").write_text(python.replace("8500", str(port)))
    script = shell.replace("8500", str(port)).replace(
        "hansang serve", "hansang serve --metrics-port 0"
    )
    # A reader sees the service come up before typing on; it listens before it serves.
    ask = f"from service.client import Classifier; Classifier('localhost:{port}').model()"
    waiting = f'until {sys.executable} -c "{ask}" 2>/dev/null; do sleep 0.2; done\n'
    script = script.replace("&\n", f"&\n{waiting}") + f"{sys.executable} call.py\n"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    walk = subprocess.Popen(
        ["bash", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "PREFECT_HOME": str(tmp_path / "prefect")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = walk.communicate(timeout=800)
    finally:
        if walk.poll() is None:
            os.killpg(walk.pid, signal.SIGKILL)

    assert 0 == walk.returncode, output[-4000:]
    assert 5 == len([line for line in output.splitlines() if line.startswith("[(")][:5])


def test_the_readme_names_only_make_targets_that_exist() -> None:
    """A target that the README tells people to type stands in the Makefile."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    assert set(re.findall(r"make ([a-z-]+)", README)) <= targets
