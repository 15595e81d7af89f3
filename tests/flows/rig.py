"""A Prefect server, workers and runs as processes of their own, to be killed; asked over REST."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from flows.local.demo import free_port
from flows.local.up import SERVER_SETTINGS
from tests.paths import ROOT

POOL = "hansang-cpu"

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As a shell has it for what it starts in the background. Children would ignore it, too, and
    # Prefect's worker stops by the SIGINT that it sends to itself after a SIGTERM.
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Rig:
    """One server with Hansang's deployments, and what runs on it."""

    def __init__(self, home: Path, **settings: str) -> None:
        self.home = home
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/api"
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
        self.env = {
            **inherited, **SERVER_SETTINGS, "PREFECT_HOME": str(home / "prefect"),
            "PREFECT_API_URL": self.url, "PYTHONPATH": str(ROOT), "HANSANG_LOCKS": str(home),
            # Workers look every 15 s otherwise; nothing else is hastened.
            "PREFECT_WORKER_QUERY_SECONDS": "2", **settings,
        }  # fmt: skip
        self.server: subprocess.Popen | None = None
        self.workers: list[subprocess.Popen] = []

    def start_server(self) -> None:
        self.server = self._popen("server", "server", "start", "--host", "127.0.0.1",
                                  "--port", str(self.port))  # fmt: skip
        self.until(self._healthy, within_s=180)

    def stop_server(self) -> None:
        os.killpg(self.server.pid, signal.SIGTERM)
        try:
            self.server.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self.server.pid, signal.SIGKILL)
            self.server.wait()

    def deploy(
        self, file: Path = ROOT / "prefect.yaml", gpus: int = 0, more: str = ""
    ) -> list[dict]:
        script = (
            "import flows, json; from dataclasses import asdict; from pathlib import Path\n"
            "from flows.prefect_setup.deploy import deploy\n"
            f"done = deploy(home=Path({str(ROOT)!r}), file=Path({str(file)!r}), gpus={gpus},"
            f"{more})\n"
            "print(json.dumps([asdict(change) for change in done]))"
        )
        done = subprocess.run([sys.executable, "-c", script], env=self.env, cwd=ROOT, check=True,
                              capture_output=True, text=True)  # fmt: skip
        return json.loads(done.stdout.splitlines()[-1])

    def start_worker(self, pool: str = POOL) -> subprocess.Popen:
        worker = self._popen("worker", "worker", "start", "--pool", pool, "--type", "process",
                             "--name", f"worker-{len(self.workers)}")  # fmt: skip
        self.workers.append(worker)
        return worker

    def start_run(self, deployment: str, parameters: dict) -> str:
        found = self.get(f"/deployments/name/{deployment}")
        path = f"/deployments/{found['id']}/create_flow_run"
        return self.post(path, {"parameters": parameters, "state": {"type": "SCHEDULED"}})["id"]

    def states(self, run: str) -> list[str]:
        found = self.get(f"/flow_run_states/?flow_run_id={run}")
        return [each["name"] for each in sorted(found, key=lambda each: each["timestamp"])]

    def state(self, run: str) -> dict:
        return self.get(f"/flow_runs/{run}")["state"]

    def pid(self, run: str) -> int:
        """Return the process of a run: the one that `prefect.engine` runs in."""
        found = self.get(f"/flow_runs/{run}")["infrastructure_pid"]
        return int(str(found).rsplit(":", 1)[-1])

    def until(self, holds: Callable[[], object], *, within_s: float) -> None:
        deadline = time.monotonic() + within_s
        while True:
            try:
                if holds():
                    return
            except (OSError, urllib.error.URLError):
                pass
            assert time.monotonic() < deadline, f"not within {within_s} s; {self._logs()}"
            time.sleep(0.5)

    def get(self, path: str):
        return self._ask(urllib.request.Request(self.url + path))  # noqa: S310

    def post(self, path: str, body: dict):
        return self._ask(
            urllib.request.Request(  # noqa: S310
                self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
            )
        )

    def close(self) -> None:
        for process in (*self.workers, self.server):
            if process is not None and process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        shutil.rmtree(self.home / "prefect", ignore_errors=True)

    def _ask(self, request: urllib.request.Request):
        for _ in range(30):
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                # SQLite was busy: Prefect's own clients ask again, too.
                if error.code != 503:
                    raise
                time.sleep(1)
        raise AssertionError(f"{request.full_url}: the server stays busy")

    def _healthy(self) -> bool:
        assert self.server.poll() is None, self._logs()
        return self.get("/health")

    def _logs(self) -> str:
        return "".join(log.read_text()[-3000:] for log in self.home.glob("*.log"))

    def _popen(self, name: str, *arguments: str) -> subprocess.Popen:
        with (self.home / f"{name}.log").open("a") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "prefect", *arguments], cwd=self.home, env=self.env,
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
