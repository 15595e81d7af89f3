"""compose.yaml, brought up: gated on health, served, scraped, and stopped in order."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from benchmarks import rig

docker = rig.load(Path(__file__).with_name("conftest.py")).docker

ROOT = Path(__file__).parents[2]
# Grafana is left out: Debian has none, and where images can be pulled it is one of five.
SERVICES = ("postgres", "prefect", "worker", "worker-light", "service", "prometheus")
PROJECT = "hansang-test"

needs_train = pytest.mark.skipif(
    "train" not in os.environ.get("HANSANG_IMAGES", "").split(), reason="IMAGES has no train"
)


class Project:
    """A copy of the checkout's compose files in a folder of its own, as a user sets it up."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("compose.yaml", ".env.example"):
            shutil.copy(ROOT / name, folder / name.replace(".env.example", ".env"))
        shutil.copytree(ROOT / "deploy", folder / "deploy")
        (folder / "secrets").mkdir(mode=0o700)
        for name in ("postgres", "grafana"):
            (folder / "secrets" / name).write_text(os.urandom(24).hex())
            (folder / "secrets" / name).chmod(0o644)
        self.ports = {
            name: str(rig.free_port())
            for name in ("SERVICE_PORT", "PREFECT_PORT", "PROMETHEUS_PORT", "GRAFANA_PORT")
        }

    def __call__(self, *arguments: str, timeout: float = 400) -> str:
        """Run Docker Compose; return what it printed."""
        command = ["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"]
        ran = subprocess.run(
            [*command, "--project-name", PROJECT, *arguments],
            cwd=self.folder,
            env={**os.environ, **self.ports},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
        )
        assert 0 == ran.returncode, ran.stdout
        return ran.stdout

    def container(self, service: str) -> str:
        """Return the id of a service's container."""
        return self("ps", "-q", service).split()[-1]

    def until(self, service: str, wanted: str, *, within_s: float) -> float:
        """Wait for Docker's word on a service's health; return the seconds that it took."""
        start_s = time.monotonic()
        while True:
            state = json.loads(docker("inspect", "-f", "{{json .State}}", self.container(service)))
            found = state.get("Health", {}).get("Status", state["Status"])
            if found == wanted:
                return time.monotonic() - start_s
            assert time.monotonic() - start_s < within_s, (state, self("logs", service)[-3000:])
            time.sleep(0.5)

    def get(self, port: str, path: str) -> dict:
        """Return JSON that a service answers on its published port."""
        import urllib.request

        url = f"http://127.0.0.1:{self.ports[port]}{path}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Bring it up; everything of it, volumes too, is removed in the end."""
    made = Project(tmp_path_factory.mktemp("compose"))
    try:
        made("up", "--detach", "--no-build", *SERVICES)
        yield made
    finally:
        made("down", "--volumes", "--timeout", "20")


@needs_train
def test_start_is_gated_on_health(project):
    """The database is healthy before Prefect's server begins, and that before the workers."""
    project.until("prefect", "healthy", within_s=240)
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
        assert time.monotonic() < end_s, told + project("logs", "worker")[-3000:]
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
    """`hansang deploy` gives a schedule; its pipeline, run by the worker, gives a served model."""
    docker(
        *("run", "--rm", "--read-only", "--volume", f"{PROJECT}_data:/data", "hansang:train"),
        *("sample", "/data/drawn", "--classes", "2", "--per-class", "20"),
    )
    worker = project.container("worker")
    assert "healthy" != docker(
        "inspect", "-f", "{{.State.Health.Status}}", project.container("service")
    )
    deploy = (
        "from pathlib import Path; from flows.deploy import deploy;"
        "changes = deploy(home=Path('/app'), data='photos/drawn', file=Path('/app/prefect.yaml'));"
        "print([c.name for c in changes])"
    )
    for _ in range(2):  # doing it again changes nothing
        assert "pipeline/pipeline" in docker("exec", worker, "python", "-c", deploy, timeout=300)
    shown = docker("exec", worker, "prefect", "deployment", "inspect", "pipeline/pipeline")
    assert "0 2 * * *" in shown
    training = {"epochs": 1, "image_size": 32, "overrides": {"batch_size": "16"}}
    docker(
        *("exec", worker, "prefect", "deployment", "run", "pipeline/pipeline", "--watch"),
        *("--param", f"training={json.dumps(training)}", "--param", "run_id=first"),
        *("--param", "nightly={}", "--param", 'force="a test"'),
        timeout=600,
    )
    project.until("service", "healthy", within_s=120)
    answer = docker(
        *("run", "--rm", "--network", f"{PROJECT}_default", "--volume", f"{PROJECT}_data:/data:ro"),
        *(
            "hansang:serve-cpu",
            "classify",
            "/data/drawn/val",
            "--address",
            "service:8500",
            "--json",
        ),
    )
    assert answer.count('"classes"') >= 2, answer
    end_s = time.monotonic() + 90
    while True:
        asked = project.get("PROMETHEUS_PORT", "/api/v1/query?query=hansang_ready")
        if [result["value"][1] for result in asked["data"]["result"]] == ["1"]:
            break
        assert time.monotonic() < end_s, asked
        time.sleep(2)
    rules = project.get("PROMETHEUS_PORT", "/api/v1/rules")["data"]["groups"]
    assert {"hansang", "hansang-recorded"} == {group["name"] for group in rules}


@needs_train
def test_stops_in_order_and_nobody_is_killed(project):
    """The worker ends before its server, that before its database; all of them with 0."""
    containers = {service: project.container(service) for service in SERVICES}
    start_s = time.monotonic()
    project("stop")
    took_s = time.monotonic() - start_s
    states = {
        service: json.loads(docker("inspect", "-f", "{{json .State}}", container))
        for service, container in containers.items()
    }
    print(f"stopped within {took_s:.0f} s: { ({s: v['ExitCode'] for s, v in states.items()}) }")
    assert all(state["ExitCode"] == 0 for state in states.values()), states
    ended = [states[service]["FinishedAt"] for service in ("worker", "prefect", "postgres")]
    assert ended == sorted(ended)
