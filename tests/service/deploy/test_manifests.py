"""deploy/kubernetes: what it promises, and what schema checkers say."""

import json
import re
import shutil
import subprocess

import pytest

from tests.paths import ROOT

yaml = pytest.importorskip("yaml")

from service.config import ServerConfig

KUBERNETES = ROOT / "deploy" / "kubernetes"
SERVICE_OVERLAYS = ("service", "gpu", "s3", "gpu-s3")
OVERLAYS = (*SERVICE_OVERLAYS, "prefect")


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


@pytest.mark.parametrize("overlay", SERVICE_OVERLAYS)
def test_service_on_kubernetes_is_rolled_without_a_failed_call(overlay):
    """New pods are ready before old ones go, and those have time for their whole drain."""
    deployment = one(rendered(overlay), "Deployment")["spec"]
    rolling = deployment["strategy"]["rollingUpdate"]
    # A GPU more than there are replicas is hardly to be had: one of them ends first.
    wanted = (1, 0) if overlay.startswith("gpu") else (0, 1)
    assert wanted == (rolling["maxUnavailable"], rolling["maxSurge"])
    assert one(rendered(overlay), "HorizontalPodAutoscaler")["spec"]["minReplicas"] >= 2
    assert "replicas" not in deployment, "a second apply would undo the autoscaler"
    pod = deployment["template"]["spec"]
    (container,) = pod["containers"]
    (delay,) = (a for a in container["args"] if a.startswith("--drain-delay="))
    drain_s = float(delay.split("=")[1]) + ServerConfig.__dataclass_fields__["drain_s"].default
    assert pod["terminationGracePeriodSeconds"] > drain_s + 5
    readiness = container["readinessProbe"]
    noticed_s = readiness["periodSeconds"] * readiness["failureThreshold"]
    assert float(delay.split("=")[1]) > 2 * noticed_s


@pytest.mark.parametrize("overlay", SERVICE_OVERLAYS)
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


@pytest.mark.parametrize("overlay", SERVICE_OVERLAYS)
def test_a_pod_that_waits_for_a_model_is_not_killed(overlay):
    """The probes that kill ask whether it listens, which it does at once; readiness asks more."""
    pod = one(rendered(overlay), "Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert "--wait-for-model" in container["args"]
    for probe in ("startupProbe", "livenessProbe"):
        assert ["tcpSocket"] == sorted(container[probe].keys() & {"grpc", "tcpSocket", "httpGet"})
    assert "grpc" in container["readinessProbe"]


def test_flows_may_read_the_metrics():
    """Drift looks at them from this namespace."""
    (_, rule) = one(rendered("service"), "NetworkPolicy")["spec"]["ingress"]
    assert {"podSelector": {}} in rule["from"]
    assert [{"port": "metrics", "protocol": "TCP"}] == rule["ports"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_nothing_runs_with_more_than_it_needs(overlay):
    """Limits and requests, no root, no writable root, no moving tag, a policy for who serves."""
    resources = rendered(overlay)
    for deployment in (each for each in resources if each["kind"] == "Deployment"):
        pod = deployment["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert "RuntimeDefault" == pod["securityContext"]["seccompProfile"]["type"]
        for container in pod["containers"]:
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
            assert "memory" in container["resources"]["limits"]
            assert not container["image"].endswith(":latest")
            assert ":" in container["image"]
            rights = container["securityContext"]
            assert rights["readOnlyRootFilesystem"]
            assert not rights["allowPrivilegeEscalation"]
            assert ["ALL"] == rights["capabilities"]["drop"]
            assert "livenessProbe" in container
    for role in (each for each in resources if each["kind"] in ("Role", "ClusterRole")):
        assert "Role" == role["kind"], "rights end at the namespace"
        for rule in role["rules"]:
            assert "*" not in [*rule["verbs"], *rule["resources"], *rule["apiGroups"]]


def test_the_worker_watches_its_own_namespace():
    """Its observer would watch all, for which the Role gives no right."""
    (container,) = one(rendered("prefect"), "Deployment", "prefect-worker")["spec"]["template"][
        "spec"
    ]["containers"]
    (namespaces,) = (
        each["valueFrom"]["fieldRef"]["fieldPath"]
        for each in container["env"]
        if each["name"] == "PREFECT_INTEGRATIONS_KUBERNETES_OBSERVER_NAMESPACES"
    )
    assert "metadata.namespace" == namespaces


@pytest.mark.parametrize("overlay", ["gpu", "gpu-s3"])
def test_gpu_overlay_asks_for_one_and_never_serves_without(overlay):
    """The image with CUDA, one GPU, and `--device=cuda`, which fails where there is none."""
    (container,) = one(rendered(overlay), "Deployment")["spec"]["template"]["spec"]["containers"]
    assert "hansang:serve" == container["image"]
    assert 1 == container["resources"]["limits"]["nvidia.com/gpu"]
    assert "--device=cuda" in container["args"]


@pytest.mark.parametrize("overlay", ["s3", "gpu-s3"])
def test_s3_overlay_wants_no_volume(overlay):
    """Models come from a bucket, and nothing claims a volume."""
    resources = rendered(overlay)
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
    for part in ("gpu", "s3"):
        text += (KUBERNETES / "components" / part / "kustomization.yaml").read_text()
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    text += " ".join(compose["services"]["service"]["command"])
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


@pytest.mark.parametrize("pool", ["heavy", "light"])
def test_kubernetes_accepts_the_job_of_a_flow(pool, tmp_path):
    """As Prefect fills it in: what trains tolerates a GPU's taint; the rest asks for little."""
    templating = pytest.importorskip("prefect.utilities.templating")
    if shutil.which("kubernetes-validate") is None:
        pytest.skip("kubernetes-validate is not installed (make test-deploy)")
    template = json.loads((KUBERNETES / "prefect" / "job-template.json").read_text())
    defaults = {
        name: about["default"]
        for name, about in template["variables"]["properties"].items()
        if "default" in about
    }
    asked = yaml.safe_load((ROOT / "prefect.yaml").read_text())["definitions"][pool]
    given = {key: value for key, value in asked["job_variables"].items() if key != "env"}
    if "gpus" in given:
        given["gpus"] = "1"
    values = {**defaults, **given, "command": "prefect flow-run execute", "name": "flow"}
    job = templating.apply_values(template["job_configuration"], values)["job_manifest"]
    # The worker makes lists of these itself.
    (container,) = job["spec"]["template"]["spec"]["containers"]
    container["env"], container["args"] = [], container["args"].split()
    job["metadata"]["name"] = job["metadata"].pop("generateName") + "x"
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    ran = subprocess.run(
        ["kubernetes-validate", "--strict", path], capture_output=True, text=True, timeout=60
    )
    assert 0 == ran.returncode, ran.stdout + ran.stderr
    tolerated = [each["key"] for each in job["spec"]["template"]["spec"].get("tolerations", [])]
    assert (["nvidia.com/gpu"] if pool == "heavy" else []) == tolerated
    assert ("4" if pool == "heavy" else "1") == container["resources"]["requests"]["cpu"]


def test_jobs_mount_what_the_service_claims():
    """With models on a volume both name the same claim; with a bucket a Job can do without."""
    template = json.loads((KUBERNETES / "prefect" / "job-template.json").read_text())
    volume = template["variables"]["properties"]["models_volume"]["default"]
    claim = one(rendered("service"), "PersistentVolumeClaim", "hansang-models")
    assert claim["metadata"]["name"] == volume["persistentVolumeClaim"]["claimName"]
    (container,) = template["job_configuration"]["job_manifest"]["spec"]["template"]["spec"][
        "containers"
    ]
    assert volume["name"] in {mount["name"] for mount in container["volumeMounts"]}
    (secret,) = container["envFrom"]
    (served,) = one(rendered("s3"), "Deployment")["spec"]["template"]["spec"]["containers"]
    assert [secret] == served["envFrom"]
