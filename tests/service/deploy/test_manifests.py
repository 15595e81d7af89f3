"""compose.yaml and deploy/kubernetes: what they promise, and what schema checkers say."""

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

KUBERNETES = ROOT / "deploy" / "kubernetes"
OVERLAYS = ("service", "gpu", "s3", "prefect")
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]


def rendered(overlay: str) -> list[dict]:
    """Return an overlay's resources, as `kubectl apply -k` would send them."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed (make test-deploy)")
    ran = subprocess.run(
        ["kubectl", "kustomize", KUBERNETES / overlay], capture_output=True, text=True, timeout=60
    )
    assert 0 == ran.returncode, ran.stderr
    return [each for each in yaml.safe_load_all(ran.stdout) if each]


def one(resources: list[dict], kind: str, name: str = "hansang") -> dict:
    """Return the resource of this kind and name."""
    (found,) = (r for r in resources if (r["kind"], r["metadata"]["name"]) == (kind, name))
    return found


def seconds(text: str) -> int:
    """Return what `40s` means."""
    return int(text.removesuffix("s"))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubernetes_accepts(overlay, tmp_path):
    """A strict schema check of each resource, for the oldest and the newest version it knows."""
    resources = rendered(overlay)
    if shutil.which("kubernetes-validate") is None:
        pytest.skip("kubernetes-validate is not installed (make test-deploy)")
    path = tmp_path / "all.yaml"
    path.write_text(yaml.safe_dump_all(resources))
    for version in ("1.31", "1.36"):
        ran = subprocess.run(
            ["kubernetes-validate", "--strict", "-k", version, path],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert 0 == ran.returncode, ran.stdout + ran.stderr
        assert len(resources) == (ran.stdout + ran.stderr).count(" passed ")


@pytest.mark.parametrize("overlay", OVERLAYS[:3])
def test_service_on_kubernetes_is_rolled_without_a_failed_call(overlay):
    """New pods are ready before old ones go, and those have time for their whole drain."""
    deployment = one(rendered(overlay), "Deployment")["spec"]
    rolling = deployment["strategy"]["rollingUpdate"]
    assert (0, 1) == (rolling["maxUnavailable"], rolling["maxSurge"])
    assert "replicas" not in deployment, "a second apply would undo the autoscaler"
    pod = deployment["template"]["spec"]
    (container,) = pod["containers"]
    (delay,) = (a for a in container["args"] if a.startswith("--drain-delay="))
    drain_s = float(delay.split("=")[1]) + ServerConfig.__dataclass_fields__["drain_s"].default
    assert pod["terminationGracePeriodSeconds"] > drain_s + 5
    readiness = container["readinessProbe"]
    noticed_s = readiness["periodSeconds"] * readiness["failureThreshold"]
    assert float(delay.split("=")[1]) > 2 * noticed_s


@pytest.mark.parametrize("overlay", OVERLAYS[:3])
def test_service_on_kubernetes_has_no_rights(overlay):
    """No root, no capabilities, a read-only root, a policy that names who may call."""
    resources = rendered(overlay)
    pod = one(resources, "Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert 10001 == pod["securityContext"]["runAsUser"]
    assert not pod["automountServiceAccountToken"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert ["ALL"] == container["securityContext"]["capabilities"]["drop"]
    assert ["Ingress", "Egress"] == one(resources, "NetworkPolicy")["spec"]["policyTypes"]
    metric = one(resources, "HorizontalPodAutoscaler")["spec"]["metrics"][0]["pods"]["metric"]
    assert "hansang_queued_images" == metric["name"]


def test_gpu_overlay_asks_for_one_and_never_serves_without():
    """The image with CUDA, one GPU, and `--device=cuda`, which fails where there is none."""
    (container,) = one(rendered("gpu"), "Deployment")["spec"]["template"]["spec"]["containers"]
    assert "hansang:serve" == container["image"]
    assert 1 == container["resources"]["limits"]["nvidia.com/gpu"]
    assert "--device=cuda" in container["args"]


def test_s3_overlay_wants_no_volume():
    """Models come from a bucket, and nothing claims a volume."""
    resources = rendered("s3")
    assert not [r for r in resources if r["kind"] == "PersistentVolumeClaim"]
    (container,) = one(resources, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert "--repository=s3://hansang/models" in container["args"]
    opened = {
        (to["ipBlock"]["cidr"] if to else "everywhere", port["port"])
        for rule in one(resources, "NetworkPolicy")["spec"]["egress"]
        for to in rule.get("to", [None])
        for port in rule["ports"]
    }
    # Names, the bucket, and where AWS tells a node its role.
    assert {("everywhere", 53), ("everywhere", 443), ("169.254.169.254/32", 80)} == opened


def test_kserve_starts_what_the_deployment_does(tmp_path):
    """The runtime has the Deployment's rights and probes, and its container passes as a Pod's."""
    runtime, model = rendered("kserve")
    if shutil.which("kubernetes-validate") is None:
        pytest.skip("kubernetes-validate is not installed (make test-deploy)")
    assert ("InferenceService", "ServingRuntime") == (model["kind"], runtime["kind"])
    asked = model["spec"]["predictor"]["model"]
    assert runtime["metadata"]["name"] == asked["runtime"]
    offered = runtime["spec"]["supportedModelFormats"]
    assert [asked["modelFormat"]["name"]] == [each["name"] for each in offered]
    assert asked["protocolVersion"] in runtime["spec"]["protocolVersions"]

    (container,) = runtime["spec"]["containers"]
    pod = one(rendered("service"), "Deployment")["spec"]["template"]["spec"]
    (ours,) = pod["containers"]
    assert ours["securityContext"].items() <= container["securityContext"].items()
    assert (
        pod["terminationGracePeriodSeconds"]
        == (model["spec"]["predictor"]["terminationGracePeriodSeconds"])
    )
    assert set(ours["args"]) - set(container["args"]) == {"--repository=/models"}
    assert "--repository=/mnt/models" in container["args"]
    for probe in ("startupProbe", "readinessProbe"):
        assert ours[probe] == container[probe]

    path = tmp_path / "pod.yaml"
    spec = {"containers": [container], "volumes": runtime["spec"]["volumes"]}
    path.write_text(yaml.safe_dump(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "kserve"}, "spec": spec}
    ))  # fmt: skip
    ran = subprocess.run(
        ["kubernetes-validate", "--strict", path], capture_output=True, text=True, timeout=60
    )
    assert 0 == ran.returncode, ran.stdout + ran.stderr


def test_flags_in_manifests_are_flags_of_the_server():
    """A flag that was renamed is found here, and not in production."""
    import typer
    from typer.main import get_command

    from service.cli.serve import serve

    app = typer.Typer()
    app.command()(serve)
    known = {name for parameter in get_command(app).params for name in parameter.opts}
    text = (KUBERNETES / "service" / "deployment.yaml").read_text()
    text += (KUBERNETES / "kserve" / "runtime.yaml").read_text()
    text += (KUBERNETES / "gpu" / "kustomization.yaml").read_text()
    text += (KUBERNETES / "s3" / "kustomization.yaml").read_text()
    text += " ".join(SERVICES["service"]["command"])
    gpu = yaml.safe_load((ROOT / "compose.gpu.yaml").read_text())
    text += " ".join(gpu["services"]["service"]["command"])
    used = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", re.sub(r"#.*", "", text)))
    assert used
    assert used <= known


def test_job_of_a_flow_saves_before_it_is_killed():
    """A Job runs once, has time to save a checkpoint, and runs what Prefect says, not our verb."""
    template = json.loads((KUBERNETES / "prefect" / "job-template.json").read_text())
    job = template["job_configuration"]["job_manifest"]["spec"]
    assert 0 == job["backoffLimit"]
    assert job["template"]["spec"]["terminationGracePeriodSeconds"] >= 60
    (container,) = job["template"]["spec"]["containers"]
    assert ["/usr/bin/env"] == container["command"]
    used = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(template["job_configuration"])))
    assert used == set(template["variables"]["properties"])


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
        if name != "postgres":  # whose own entry point changes its user
            assert service["read_only"], name
            assert ["ALL"] == service["cap_drop"], name
    # A password within an address is read where the address is used.
    text = (ROOT / "compose.yaml").read_text()
    passwords = re.findall(r"://[^/\s:@]+:([^@\n]*)@", text)
    assert ["$$(cat /run/secrets/postgres)"] == passwords
    assert {secret["file"] for secret in COMPOSE["secrets"].values()} == {
        "./secrets/postgres",
        "./secrets/grafana",
    }


def test_env_example_names_only_what_compose_reads():
    """Each variable of .env.example is one of compose.yaml's, or Compose's own."""
    text = (ROOT / "compose.yaml").read_text()
    named = re.findall(r"^#?([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE)
    assert len(named) > 5
    for name in named:
        assert f"${{{name}" in text or name == "COMPOSE_PROJECT_NAME", name


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
        (stage,) = (s for s in stages if s.startswith(f"pip AS packages-{role}\n"))
        installed = set()
        for lock in re.findall(r"-r ([a-z-]+\.txt)", stage):
            text = (ROOT / "requirements" / lock).read_text()
            installed |= set(re.findall(r"^([a-z0-9_.-]+==[^ ;]+)", text, re.MULTILINE))
        assert sorted(installed) == sorted(found)
        names = {name.split("==")[0] for name in found}
        assert {"onnxruntime", "onnxruntime-gpu"} & names
        assert "opentelemetry-sdk" in names
        assert (role == "train") == bool(names & {"torch", "prefect"})
