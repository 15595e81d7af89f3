"""PostgreSQL and `hansang up`, with real servers, by `make test-prefect`."""

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import yaml

from tests.flows.rig import Rig, free_port
from tests.paths import ROOT

pytestmark = [
    pytest.mark.timeout(1200),
    pytest.mark.skipif(
        not os.environ.get("HANSANG_TEST_PREFECT"),
        reason="minutes of servers and workers: make test-prefect runs it",
    ),
]


def test_a_real_postgresql_holds_the_state(tmp_path, photos):
    """Deployments, a run and its states, by URL alone."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin")) if shutil.which("psql") else []
    if not programs:
        pytest.skip("no PostgreSQL here: apt-get install postgresql")
    port, data = free_port(), tmp_path / "pg"
    data.mkdir()
    who = {}
    if os.getuid() == 0:
        # PostgreSQL refuses to run as root.
        user = pwd.getpwnam("postgres")
        os.chown(data, user.pw_uid, user.pw_gid)
        for parent in (tmp_path, *tmp_path.parents):
            if parent.owner() != "root" or parent == Path(parent.anchor):
                break
            parent.chmod(parent.stat().st_mode | 0o011)
        who = {"user": "postgres"}
    bin_dir = programs[-1]
    subprocess.run([bin_dir / "initdb", "-D", data, "-U", "hansang", "-A", "trust", "-N"],
                   check=True, capture_output=True, cwd="/", **who)  # fmt: skip
    server = subprocess.Popen(
        [bin_dir / "postgres", "-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", ""],
        stderr=subprocess.DEVNULL, cwd="/", **who,
    )  # fmt: skip
    url = f"postgresql+asyncpg://hansang@127.0.0.1:{port}/postgres"
    rig = Rig(tmp_path, PREFECT_SERVER_DATABASE_CONNECTION_URL=url)
    try:
        ready = [bin_dir / "pg_isready", "-h", "127.0.0.1", "-p", str(port), "-q"]
        rig.until(lambda: subprocess.run(ready).returncode == 0, within_s=60)
        rig.start_server()
        assert {"created"} == {change["what"] for change in rig.deploy()}
        rig.start_worker("hansang")
        cache = str(tmp_path / "cache")
        run = rig.start_run("prepare/prepare", {"data": str(photos), "cache_dir": cache,
                                                "image_size": 32})  # fmt: skip
        rig.until(lambda: rig.state(run)["type"] in ("COMPLETED", "FAILED"), within_s=300)
        assert "COMPLETED" == rig.state(run)["type"]
        told = subprocess.run(
            ["psql", "-h", "127.0.0.1", "-p", str(port), "-U", "hansang", "postgres", "-tAc",
             "select state_type from flow_run"], check=True, capture_output=True, text=True,
        )  # fmt: skip
        assert "COMPLETED" in told.stdout
    finally:
        rig.close()
        server.send_signal(signal.SIGINT)
        server.wait(30)


def test_a_worker_of_compose_answers_the_health_check_of_compose(tmp_path):
    """The very command and the very check, on another port; without a worker the check fails."""
    told = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["worker-light"]
    check = told["healthcheck"]["test"]
    assert check[:2] == ["CMD", "python"]
    port = str(free_port())
    rig = Rig(tmp_path, PREFECT_WORKER_WEBSERVER_PORT=port,
              PREFECT_WORKER_WEBSERVER_HOST="127.0.0.1")  # fmt: skip

    def is_well() -> bool:
        asked = [sys.executable, *(part.replace(":8080/", f":{port}/") for part in check[2:])]
        env = rig.env | {"http_proxy": "http://127.0.0.1:1"}
        return subprocess.run(asked, env=env, capture_output=True).returncode == 0

    try:
        rig.start_server()
        rig.deploy()
        assert not is_well()
        with (tmp_path / "worker.log").open("a") as log:
            rig.workers.append(subprocess.Popen(
                [sys.executable, *told["entrypoint"][1:], *told["command"]], cwd=ROOT, env=rig.env,
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
            ))  # fmt: skip
        rig.until(is_well, within_s=120)
    finally:
        rig.close()


def test_up_starts_everything_and_stops_it_cleanly(tmp_path, photos):
    """Server, workers and service answer at the addresses that are printed; SIGTERM ends all."""
    ports = [str(free_port()) for _ in range(5)]
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    environment = {**inherited, "PREFECT_HOME": str(tmp_path / "prefect"),
                   "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}  # fmt: skip
    up = subprocess.Popen(
        [sys.executable, "-m", "hansang", "up", "--home", str(ROOT), "--data", str(photos),
         "--repository", str(tmp_path / "models"), "--gpus", "0", "--server-port", ports[0],
         "--port", ports[1], "--metrics-port", ports[2], "--reports-port", ports[3],
         "--http-port", ports[4],
         "--logs", str(tmp_path / "logs")],
        env=environment, cwd=tmp_path, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        printed = ""
        while "logs" not in printed:
            line = up.stdout.readline()
            assert line, (printed, up.wait())
            printed += line
        for url in (f"http://127.0.0.1:{ports[0]}", f"http://localhost:{ports[2]}/metrics"):
            assert url in printed
        _answers(f"http://127.0.0.1:{ports[0]}/")
        _answers(f"http://localhost:{ports[3]}/")
        with urllib.request.urlopen(f"http://127.0.0.1:{ports[0]}/ui-settings") as answer:
            assert f"http://127.0.0.1:{ports[0]}/api" == json.load(answer)["api_url"]
        _answers(f"http://localhost:{ports[2]}/metrics")
        running = _children(up.pid)
        assert len(running) >= 5
    finally:
        up.send_signal(signal.SIGTERM)
        code = up.wait(180)
    assert 0 == code
    assert not [pid for pid in running if Path(f"/proc/{pid}").exists()]


def _answers(url: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310
                assert 200 == answer.status
                return
        except OSError:
            assert time.monotonic() < deadline, f"{url} does not answer"
            time.sleep(0.5)


def _children(pid: int) -> list[int]:
    return [int(child) for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()]  # fmt: skip
