"""compose.yaml and the bill of materials: what they promise."""

import json
import re
import shutil
import subprocess

import pytest

from tests.paths import ROOT

yaml = pytest.importorskip("yaml")

from flows.local.up import SERVER_SETTINGS
from flows.tasks.links import SETTING
from service.config import ServerConfig

COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]


def seconds(text: str) -> int:
    """Return what `40s` means."""
    return int(text.removesuffix("s"))


def test_compose_stops_the_worker_first_and_gives_everyone_time():
    """Each is stopped before what it reports to, and not killed within its own drain."""
    assert {"prefect": {"condition": "service_healthy"}} == SERVICES["worker"]["depends_on"]
    assert {"postgres": {"condition": "service_healthy"}} == SERVICES["prefect"]["depends_on"]
    assert ["python", "-m", "flows.worker"] == SERVICES["worker"]["entrypoint"]
    assert seconds(SERVICES["worker"]["stop_grace_period"]) >= 60
    fields = ServerConfig.__dataclass_fields__
    drain_s = fields["drain_delay_s"].default + fields["drain_s"].default
    assert seconds(SERVICES["service"]["stop_grace_period"]) > drain_s + 5


def test_compose_keeps_leases_and_serves_the_reports_that_pages_link_to():
    """As `hansang up`: a lease outlives its server; links lead to the port of the web server."""
    server = SERVICES["prefect"]
    for name, value in SERVER_SETTINGS.items():
        if "LEASE" in name:
            assert value == server["environment"][name]
    home = server["environment"]["PREFECT_HOME"]
    assert [f"prefect:{home}"] == server["volumes"]
    assert "prefect" in COMPOSE["volumes"]
    (port,) = SERVICES["reports"]["ports"]
    for worker in ("worker", "worker-light"):
        link = SERVICES[worker]["environment"][SETTING]
        assert link.rstrip("}").rsplit(":", 1)[1] == port.rsplit(":", 1)[1]


def test_compose_holds_no_secret_and_no_moving_tag():
    """Passwords are files, images have versions, and no port is open to the world by default."""
    for name, service in SERVICES.items():
        for key, value in service.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|TOKEN|KEY", key):
                assert str(value).startswith("/run/secrets/"), f"{name}: {key}={value}"
        # Ours are built here, by role; the others' tags say a version.
        assert re.fullmatch(
            r"\$\{\w+_IMAGE:-(hansang:(train|serve-cpu)|[\w/.-]+:v?\d+\.\d+[\w.-]*)\}",
            service["image"],
        ), f"{name}: {service['image']}"
        for port in service.get("ports", ()):
            assert port.startswith("${BIND:-127.0.0.1}:"), f"{name}: {port}"
        assert service["read_only"], name
        assert ["ALL"] == service["cap_drop"], name
        assert ["no-new-privileges:true"] == service["security_opt"], name
        assert {"max-size", "max-file"} <= service["logging"]["options"].keys(), name
    # A password within an address is read where the address is used.
    text = (ROOT / "compose.yaml").read_text()
    passwords = re.findall(r"://[^/\s:@]+:([^@\n]*)@", text)
    assert ["$$(cat /run/secrets/postgres)"] == passwords
    assert {secret["file"] for secret in COMPOSE["secrets"].values()} == {
        "./secrets/postgres",
        "./secrets/grafana",
        "./secrets/alert_webhook",
        "./secrets/alert_mail",
    }


def test_env_example_names_only_what_compose_reads():
    """Each variable of .env.example is one of compose.yaml's, or Compose's own."""
    text = (ROOT / "compose.yaml").read_text() + (ROOT / "compose.gpu.yaml").read_text()
    named = re.findall(r"^#?([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE)
    assert len(named) > 5
    for name in named:
        assert f"${{{name}" in text or name.startswith("COMPOSE_"), name


@pytest.mark.parametrize("files", [("compose.yaml",), ("compose.yaml", "compose.gpu.yaml")])
def test_compose_reads_its_files(files, tmp_path):
    """Compose itself parses and merges them; with a GPU the service has CUDA's memory, too."""
    command = ["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"]
    if shutil.which(command[0]) is None:
        pytest.skip("Docker Compose is not installed")
    if subprocess.run([*command, "version"], capture_output=True).returncode:
        pytest.skip("Docker Compose is not installed")
    for file in files:
        shutil.copy(ROOT / file, tmp_path)
    shutil.copy(ROOT / ".env.example", tmp_path / ".env")
    (tmp_path / "secrets").mkdir()
    for name in COMPOSE["secrets"]:
        (tmp_path / "secrets" / name).write_text("x")
    flags = [flag for file in files for flag in ("-f", file)]
    ran = subprocess.run(
        [*command, *flags, "config"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert 0 == ran.returncode, ran.stderr
    assert ("nvidia" in ran.stdout) == (len(files) == 2)
    merged = yaml.safe_load(ran.stdout)["services"]
    told = str(merged["service"]["mem_limit"])
    limit = int(told.removesuffix("g")) * (2**30 if told.endswith("g") else 1)
    assert (8 if len(files) == 2 else 2) * 2**30 == limit
    for worker in ("worker", "worker-light"):
        assert ["/tmp:exec"] == merged[worker]["tmpfs"]


def test_bill_of_materials_names_what_an_image_holds(tmp_path):
    """`make sbom` lists every package that an image installs, once, and none that only trains."""
    if shutil.which("cyclonedx-py") is None:
        pytest.skip("cyclonedx-py is not installed (make test-deploy)")
    subprocess.run(
        # Its environment is there: this test runs in it.
        ["make", "--assume-old", ".venv-deploy/.ready", "sbom", f"SBOM={tmp_path}"],
        cwd=ROOT, check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    stages = re.split(r"^FROM ", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    for role in ("serve-cpu", "serve", "train"):
        bill = json.loads((tmp_path / f"{role}.json").read_text())
        assert "CycloneDX" == bill["bomFormat"]
        found = [f"{each['name']}=={each['version']}" for each in bill["components"]]
        parts = [
            stage
            for stage in stages
            if stage.startswith((f"pip AS packages-{role}\n", f"pip AS cuda-{role}\n"))
        ]
        locks = re.findall(r"-r ([a-z-]+\.txt)", "".join(parts))
        # A lock in two parts is the lock: tests/service/deploy/test_image_build.py.
        locks = {re.sub("-(cuda|rest)", "", lock) for lock in locks}
        assert 2 == len(locks)
        installed = set()
        for lock in locks:
            text = (ROOT / "requirements" / lock).read_text()
            installed |= set(re.findall(r"^([a-z0-9_.-]+==[^ ;]+)", text, re.MULTILINE))
        assert sorted(installed) == sorted(found)
        names = {name.split("==")[0] for name in found}
        assert {"onnxruntime", "onnxruntime-gpu"} & names
        assert "opentelemetry-sdk" in names
        assert (role == "train") == bool(names & {"torch", "prefect"})


def test_every_part_has_limits_and_what_answers_is_asked_whether_it_is_well():
    """Memory, cores and a health check of each; the service has the check of its image.

    What is unhealthy is restarted, but a worker, whose training goes on without a server.
    """
    for name, service in COMPOSE["services"].items():
        assert {"mem_limit", "cpus"} <= service.keys(), name
        assert "healthcheck" in service or name == "service", name
        asked = "no" if name.startswith("worker") else "unhealthy"
        assert {"hansang.restart": asked} == service["labels"], name
    assert "ProxyHandler({})" in COMPOSE["services"]["prefect"]["healthcheck"]["test"][-1]


def test_images_that_compose_builds_know_their_revision():
    """As an argument of the build: runs in containers note it, and there is no git in an image."""
    for name, service in SERVICES.items():
        if "build" in service:
            assert {"REVISION": "${REVISION:-}"} == service["build"]["args"], name
    page = (ROOT / "docs" / "guides" / "production.md").read_text()
    assert page.count("docker compose up --build") == page.count(
        "REVISION=$(git rev-parse HEAD) docker compose up --build"
    )


def test_training_and_serving_may_use_two_gpus():
    """.env names a GPU for each."""
    gpu = yaml.safe_load((ROOT / "compose.gpu.yaml").read_text())["services"]
    named = {
        name: service["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"]
        for name, service in gpu.items()
    }
    assert {"worker": ["${TRAINING_GPU:-0}"], "service": ["${SERVICE_GPU:-0}"]} == named
