"""`hansang up`: server, workers and service on this machine, started and stopped in order.

Prefect server ─► deploy ─► reports ─► a worker for each pool ─► service       (stopped backwards)
"""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flows.prefect_setup.pools import LIGHT_POOL, heavy_pool
from flows.tasks.links import RUNS, SETTING
from terminal import UserError, print_table, say

SERVER_SETTINGS: Mapping[str, str] = {
    # A lease kept in memory would hold its slot for ever after a restart of the server.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
        "prefect.server.concurrency.lease_storage.filesystem"
    ),
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
}
"""What the server needs for the failure table of docs/guides/nightly.md."""

_START_S = 180.0
_STOP_S = 40.0


@dataclass(kw_only=True)
class LocalStack:
    """Prefect's server, workers, the service and the reports' web server, as child processes."""

    home: Path
    data: str
    model: str
    repository: Path
    gpus: int
    server_port: int
    port: int
    http_port: int
    metrics_port: int
    reports_port: int
    logs: Path
    _running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _stopping: bool = False

    def run(self) -> None:
        """Start everything, print the addresses, wait for a signal, stop everything.

        Raises:
            UserError: Something did not start, or ended by itself; its log's end is quoted.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        self.logs.mkdir(parents=True, exist_ok=True)
        try:
            self._start_all()
            while not self._stopping:
                self._require_alive()
                time.sleep(0.5)
        finally:
            self._stop_all()

    def _start_all(self) -> None:
        url = os.environ.get("PREFECT_API_URL")
        if not url:
            url = f"http://127.0.0.1:{self.server_port}/api"
            _require_free(self.server_port)
            say("starting Prefect's server")
            self._start("server", "-m", "prefect", "server", "start", "--host", "127.0.0.1",
                        "--port", str(self.server_port),
                        # Its pages would ask port 4200, whatever port they come from.
                        env={**SERVER_SETTINGS, "PREFECT_SERVER_UI_API_URL": url})  # fmt: skip
            os.environ["PREFECT_API_URL"] = url
        self._wait_for("server", f"{url}/health")
        if self._stopping:
            return
        say("deploying")
        # Prefect reads its settings when it is imported: the URL must be set before.
        from flows.prefect_setup import address
        from flows.prefect_setup.deploy import deploy

        say(address.said(started_here="server" in self._running))
        changes = deploy(
            home=self.home, data=self.data, model=self.model, gpus=self.gpus,
            file=self.home / "prefect.yaml",
        )  # fmt: skip
        changed = [change for change in changes if change.what != "unchanged"]
        say(f"deployed: {len(changed)} of {len(changes)} things changed")
        runs = self.home / RUNS
        runs.mkdir(exist_ok=True)
        self._start("reports", "-m", "http.server", str(self.reports_port), "--bind", "127.0.0.1",
                    "--directory", str(runs))  # fmt: skip
        os.environ[SETTING] = f"http://localhost:{self.reports_port}"
        heavy = [heavy_pool(self.gpus)] * max(self.gpus, 1)
        for number, pool in enumerate((LIGHT_POOL, *heavy)):
            name = f"{pool}-{number}" if number > 1 else pool
            self._start(f"worker-{name}", "-m", "flows.worker", "--pool", pool,
                        "--type", "process", "--name", f"{name}-{os.uname().nodename}")  # fmt: skip
        repository = self.home / self.repository
        repository.mkdir(parents=True, exist_ok=True)
        self._start("service", "-m", "hansang", "serve", "--repository", str(repository),
                    "--port", str(self.port), "--http-port", str(self.http_port),
                    "--metrics-port", str(self.metrics_port),
                    "--host", "127.0.0.1", "--wait-for-model")  # fmt: skip
        self._require_alive()
        print_table(
            "Up (Ctrl-C stops it)",
            ["what", "where"],
            [
                ["try a photo", f"http://localhost:{self.http_port}/"],
                ["Prefect's UI", url.removesuffix("/api")],
                [
                    "run the pipeline now",
                    f"PREFECT_API_URL={url} prefect deployment run pipeline/pipeline",
                ],
                ["reports", os.environ[SETTING]],
                ["gRPC", f"localhost:{self.port}"],
                ["metrics", f"http://localhost:{self.metrics_port}/metrics"],
                ["logs", self.logs.resolve()],
            ],
        )
        sys.stdout.flush()

    def _start(self, name: str, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        with (self.logs / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                [sys.executable, *arguments], cwd=self.home, stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, env={**os.environ, **(env or {})},
                # Ctrl-C at the terminal is ours; they are stopped in order.
                start_new_session=True,
            )  # fmt: skip

    def _wait_for(self, name: str, url: str) -> None:
        deadline_s = time.monotonic() + _START_S
        while not self._stopping:
            self._require_alive()
            try:
                with urllib.request.urlopen(url, timeout=5):  # noqa: S310  # our own server
                    return
            except (OSError, urllib.error.URLError) as error:
                if time.monotonic() > deadline_s:
                    raise UserError(f"{name}: {url} does not answer: {error}") from error
            time.sleep(0.5)

    def _require_alive(self) -> None:
        for name, process in self._running.items():
            if process.poll() is not None and not self._stopping:
                log = self.logs / f"{name}.log"
                said = log.read_text("utf-8", "replace").strip().splitlines()[-8:]
                raise UserError(
                    f"{name} ended with {process.returncode}; {log} ends with:\n" + "\n".join(said)
                )

    def _stop(self, number: int, frame: object) -> None:  # noqa: ARG002
        self._stopping = True

    def _stop_all(self) -> None:
        # The server last: runs that are stopped must be able to say so.
        for name, process in reversed(self._running.items()):
            if process.poll() is None:
                say(f"stopping {name}")
                process.terminate()
                try:
                    process.wait(_STOP_S)
                except subprocess.TimeoutExpired:
                    say(f"{name} does not end; killed")
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()


def _require_free(port: int) -> None:
    """Raise UserError if somebody listens: all would go to the Prefect server that is there."""
    with socket.socket() as listener:
        # As the server does: connections of an ended one, which linger, hold nothing.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as error:
            raise UserError(
                f"port {port} for Prefect's server: {error.strerror}; to use the server that is"
                f" there, set PREFECT_API_URL=http://127.0.0.1:{port}/api, or give another"
                " --server-port"
            ) from error
