"""docs/guides/production.md, run as it stands: up, deployed, served, stopped, gone on."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from benchmarks import rig
from tests.deploy.conftest import docker
from tests.paths import ROOT

# Grafana is left out: Debian has none, and where images can be pulled it is one of five.
SERVICES = ("postgres", "prefect", "worker", "worker-light", "reports", "service", "prometheus")
PROJECT = "hansang-test"
TRAIN = "hansang-test:train"

needs_train = pytest.mark.skipif(
    "train" not in os.environ.get("HANSANG_IMAGES", "").split(), reason="IMAGES has no train"
)


def guide(command: str) -> str:
    """Return the one line of the guide's first block that holds `command`."""
    page = (ROOT / "docs" / "guides" / "production.md").read_text()
    block = re.search(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[1]
    (line,) = (line for line in block.splitlines() if command in line)
    return line


class Project:
    """A copy of what Compose reads in a folder of its own, set up by the guide's lines."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("compose.yaml", ".env.example"):
            shutil.copy(ROOT / name, folder)
        shutil.copytree(ROOT / "deploy", folder / "deploy")
        self.ports = {
            f"{name}_PORT": str(rig.free_port())
            for name in ("SERVICE", "HTTP", "PREFECT", "PROMETHEUS", "GRAFANA", "REPORTS")
        }
        self.reports = f"http://localhost:{self.ports['REPORTS_PORT']}"

    def __call__(self, line: str, *, timeout: float = 400) -> str:
        """Run a line of shell as a reader would; return what it printed.

        Nothing is built again, nobody types, and the ports are free ones; else it is as it stands.
        """
        plugin = subprocess.run(["docker", "compose", "version"], capture_output=True)
        line = line.replace("up --build --detach", f"up --no-build --detach {' '.join(SERVICES)}")
        line = line.replace("docker compose exec", "docker compose exec -T")
        line = line.replace("localhost:8500", f"localhost:{self.ports['SERVICE_PORT']}")
        if plugin.returncode:
            line = line.replace("docker compose", "docker-compose")
        ran = subprocess.run(
            ["bash", "-euc", line],
            cwd=self.folder,
            env={
                **os.environ, **self.ports, "COMPOSE_PROJECT_NAME": PROJECT,
                "TRAIN_IMAGE": TRAIN, "SERVE_IMAGE": "hansang-test:serve-cpu",
                "REPORTS_URL": self.reports,
                "PATH": f"{Path(sys.executable).absolute().parent}:{os.environ['PATH']}",
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
        )  # fmt: skip
        assert 0 == ran.returncode, f"{line}: {ran.stdout}"
        return ran.stdout

    def container(self, service: str) -> str:
        """Return the id of a service's container."""
        return self(f"docker compose ps -q {service}").split()[-1]

    def until(self, service: str, wanted: str, *, within_s: float) -> float:
        """Wait for Docker's word on a service's health; return the seconds that it took."""
        start_s = time.monotonic()
        while True:
            state = json.loads(docker("inspect", "-f", "{{json .State}}", self.container(service)))
            found = state.get("Health", {}).get("Status", state["Status"])
            if found == wanted:
                return time.monotonic() - start_s
            assert time.monotonic() - start_s < within_s, (state, self.logs(service))
            time.sleep(0.5)

    def logs(self, service: str) -> str:
        """Return the end of what a service printed."""
        return self(f"docker compose logs {service}")[-3000:]

    def ask(self, port: str, path: str, body: dict | None = None):
        """Return JSON that a service answers on its published port."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.ports[port]}{path}",
            None if body is None else json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            return json.load(answer)

    def runs(self, command: str) -> str:
        """Run a line of shell that sees the volume of runs; return what it printed."""
        return docker("run", "--rm", "--volume", f"{PROJECT}_runs:/runs:ro", "--entrypoint", "sh",
                      TRAIN, "-c", command)  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Bring it up; everything of it, volumes too, is removed in the end."""
    made = Project(tmp_path_factory.mktemp("compose"))
    made("hansang sample photos --classes 2 --per-class 20")
    for command in ("cp .env.example", "openssl", "PHOTOS="):
        made(guide(command))
    try:
        made(guide("docker compose up"))
        yield made
    finally:
        made("docker compose down --volumes --timeout 20")


@needs_train
def test_start_is_gated_on_health(project):
    """The database is healthy before Prefect's server begins, and that before the workers."""
    project.until("prefect", "healthy", within_s=240)
    with urllib.request.urlopen(
        f"http://127.0.0.1:{project.ports['PREFECT_PORT']}/", timeout=10
    ) as page:
        assert "text/html" in page.headers["Content-Type"], "Prefect's pages are not served"
    project.until("worker", "running", within_s=60)
    started = {
        service: docker("inspect", "-f", "{{.State.StartedAt}}", project.container(service))
        for service in ("postgres", "prefect", "worker")
    }
    assert started["postgres"] < started["prefect"] < started["worker"]


@needs_train
def test_worker_joins_its_pool(project):
    """The work pool is made, and its worker reports to the server, whose data is in PostgreSQL."""
    end_s = time.monotonic() + 120
    ask = (
        "import json, urllib.request as u;"
        "r = u.Request('http://localhost:4200/api/work_pools/hansang/workers/filter',"
        " b'{}', {'Content-Type': 'application/json'});"
        "print(json.dumps([w['status'] for w in json.load(u.urlopen(r))]))"
    )
    while True:
        told = docker("exec", project.container("prefect"), "python", "-c", ask, check=False)
        if '"ONLINE"' in told:
            break
        assert time.monotonic() < end_s, told + project.logs("worker")
        time.sleep(2)
    database = project.container("postgres")
    tables = docker(
        *("exec", "--user", "postgres", "--env", "PGPASSFILE=/dev/null", database),
        *("sh", "-c", "PGPASSWORD=$(cat /run/secrets/postgres) psql -h 127.0.0.1 -U prefect -Atc"
          " 'select name from work_pool' prefect"),
    )  # fmt: skip
    assert "hansang" in tables


@needs_train
@pytest.mark.timeout(900)
def test_deployed_flow_trains_releases_and_is_served_and_scraped(project):
    """The guide's lines give a schedule, a served model, and answers to whom they are for."""
    service = project.container("service")
    assert "healthy" != docker("inspect", "-f", "{{.State.Health.Status}}", service).strip()
    assert "pipeline/pipeline" in project(guide("hansang deploy"), timeout=300)
    again = project(guide("hansang deploy"), timeout=300)
    assert "unchanged" in again
    assert "created" not in again
    shown = project("docker compose exec worker prefect deployment inspect pipeline/pipeline")
    assert "0 2 * * *" in shown
    line = guide("deployment run")
    shorter = line.replace('"epochs": 20, "image_size": 64', '"epochs": 1, "image_size": 32')
    assert shorter != line
    project(f"{shorter} --param run_id=first", timeout=600)
    project.until("service", "healthy", within_s=120)
    answers = project(guide("hansang classify"))
    photos = [path.name for path in (project.folder / "photos" / "val").glob("*/*.jpg")]
    assert len(photos) >= 4
    assert all(name in answers for name in photos), answers
    # Another pool, and the service's counters, which are in another container.
    project("docker compose exec worker prefect deployment run drift/drift --watch")
    report = f"{project.reports}/first/report.html"
    with urllib.request.urlopen(report, timeout=10) as page:  # noqa: S310
        assert b"</html>" in page.read()
    written = project.ask("PREFECT_PORT", "/api/artifacts/filter", {})
    assert any(f"{project.reports}/first/" in str(each["data"]) for each in written)
    end_s = time.monotonic() + 90
    while True:
        asked = project.ask("PROMETHEUS_PORT", "/api/v1/query?query=hansang_ready")
        if [result["value"][1] for result in asked["data"]["result"]] == ["1"]:
            break
        assert time.monotonic() < end_s, asked
        time.sleep(2)
    rules = project.ask("PROMETHEUS_PORT", "/api/v1/rules")["data"]["groups"]
    assert {"hansang", "hansang-recorded"} == {group["name"] for group in rules}


@needs_train
@pytest.mark.timeout(1200)
def test_stopped_in_mid_training_it_goes_on_from_the_checkpoint_after_the_next_up(project):
    """Stopped in order, nobody killed; what was trained is not trained again, and it completes."""
    training = {"epochs": 12, "image_size": 64, "overrides": {"batch_size": "4"}}
    told = project(
        "docker compose exec worker prefect deployment run train/train --param run_id=second"
        f" --param 'training={json.dumps(training)}'"
    )
    run = re.search(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", told)[0]
    end_s = time.monotonic() + 600
    metrics = "cat /runs/second/metrics.jsonl 2>/dev/null || true"
    while len(project.runs(metrics).splitlines()) < 2:
        assert time.monotonic() < end_s, project.logs("worker")
        time.sleep(0.2)
    # The place of the run is held by a lease, which must not be lost with the server.
    leases = "docker compose exec prefect ls /prefect/concurrency_leases"
    assert re.search(r"^[0-9a-f-]{36}\.json$", project(leases), re.MULTILINE)

    containers = {service: project.container(service) for service in SERVICES}
    start_s = time.monotonic()
    project("docker compose stop")
    took_s = time.monotonic() - start_s

    states = {
        service: json.loads(docker("inspect", "-f", "{{json .State}}", container))
        for service, container in containers.items()
    }
    print(f"stopped within {took_s:.0f} s: { ({s: v['ExitCode'] for s, v in states.items()}) }")
    assert all(state["ExitCode"] == 0 for state in states.values()), states
    ended = [states[service]["FinishedAt"] for service in ("worker", "prefect", "postgres")]
    assert ended == sorted(ended)
    before = project.runs(metrics).splitlines()
    assert 2 <= len(before) < 12, "the training ended before it was stopped"
    saved = max(
        int(name.removeprefix("step-").split(".")[0])
        for name in project.runs("ls /runs/second/checkpoints").split()
        if name.startswith("step-")
    )
    # Within an epoch, unless the signal met its very end.
    assert saved >= json.loads(before[-1])["steps"]

    project(guide("docker compose up"))
    start_s = time.monotonic()
    state = {"type": ""}
    while state["type"] not in ("COMPLETED", "FAILED", "CANCELLED"):
        assert time.monotonic() < start_s + 600, (state, project.logs("worker"))
        time.sleep(2)
        try:
            state = project.ask("PREFECT_PORT", f"/api/flow_runs/{run}")["state"]
        except OSError:
            continue
    past = project.ask("PREFECT_PORT", f"/api/flow_run_states/?flow_run_id={run}")
    # Given back by the worker that was stopped: nobody had to miss it.
    assert "its worker was stopped" in [each["message"] for each in past]
    assert "CRASHED" not in [each["type"] for each in past]
    print(f"went on from step {saved}; completed {time.monotonic() - start_s:.0f} s after `up`")
    assert "COMPLETED" == state["type"], state
    after = project.runs(metrics).splitlines()
    # Lines hold times: they are the same to the byte only if they were not made again.
    assert before == after[: len(before)]
    assert list(range(1, 13)) == [json.loads(line)["epoch"] for line in after]
