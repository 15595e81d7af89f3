"""One Prefect server for the whole session, and the drawn dishes with a run on them."""

import fcntl
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

# Read when Prefect is imported: each flow would otherwise start a heartbeat thread.
os.environ["PREFECT_LOGGING_LEVEL"] = "WARNING"

import flows  # noqa: F401  (sets Prefect's quiet, offline defaults first)
from benchmarks.rig import free_port
from tests.once import made_once, shared


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A real Prefect server for all processes of pytest, ended by the last one that used it."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with (shared(tmp_path_factory) / "prefect-users").open("w") as users:
        fcntl.flock(users, fcntl.LOCK_SH)
        server = made_once(tmp_path_factory, "prefect", _start_server)
        with temporary_settings({PREFECT_API_URL: (server / "url").read_text()}):
            yield
        with suppress(BlockingIOError):  # others use it
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            (server / ".made").unlink()
            os.kill(int((server / "pid").read_text()), signal.SIGTERM)


def _start_server(folder: Path) -> None:
    """Start Prefect's server on a database of its own; its start takes 10 s of CPU."""
    port = free_port()
    environment = {
        **os.environ, "PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1",
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{folder}/{port}.db",
    }  # fmt: skip
    command = [
        sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app",
        "--port", str(port), "--log-level", "error",
    ]  # fmt: skip
    # The shell ends at once, so that the server outlives the process of pytest that started it.
    subprocess.run(
        ["bash", "-c", '"$@" </dev/null >log 2>&1 & echo $! >pid', "bash", *command],
        cwd=folder, env=environment, check=True, start_new_session=True,
    )  # fmt: skip
    end_s = time.monotonic() + 180
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=10):
                break
        except OSError:
            assert time.monotonic() < end_s, (folder / "log").read_text()
            time.sleep(0.2)
    (folder / "url").write_text(f"http://127.0.0.1:{port}/api")


@pytest.fixture(scope="session")
def photos(dishes: Path) -> Path:
    """Three drawn dishes, with train, val and test folders."""
    return dishes


@pytest.fixture(scope="session")
def trained(run_dir: Path) -> Path:
    """A run on the drawn dishes, which nobody changes."""
    return run_dir


@pytest.fixture(scope="module", autouse=True)
def _quick_exports(exports_once: None) -> None:
    """Candidates are exported by the dozen; `tests/training/export` tests the exporter."""
