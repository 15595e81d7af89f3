"""What the Dockerfile and the scripts beside it do, as far as it is seen without an engine."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()


def stage(name: str) -> str:
    """Return the lines of a stage."""
    found = re.search(rf"^FROM \S+ AS {name}\n(.*?)(?=^FROM |\Z)", DOCKERFILE, re.M | re.S)
    return found[1]


@pytest.mark.parametrize("role", ["serve-cpu", "serve", "train"])
def test_layers_are_in_the_order_of_how_seldom_they_change(role):
    """CUDA, then other packages, then code, then what each commit names."""
    text = stage(role)
    order = ["COPY --from=cuda-", "COPY --from=packages-", "COPY --from=code ", "ARG REVISION"]
    places = [text.find(each) for each in order if role != "serve-cpu" or "cuda" not in each]
    assert -1 not in places
    assert sorted(places) == places
    for base in ("runtime", "service", "pip"):
        assert "REVISION" not in stage(base), "each commit would copy the packages anew"


def test_the_two_parts_of_a_lock_are_the_lock(tmp_path):
    """Each package with its hashes lies in one part; those of CUDA and torch in the first."""
    command = re.search(r"^RUN (for role in .*?)\n\n", DOCKERFILE, re.M | re.S)[1]
    for role in ("serve", "train"):
        (tmp_path / f"{role}.txt").write_text((ROOT / f"requirements/{role}.txt").read_text())
    subprocess.run(["sh", "-euc", command.replace("\\\n", "")], cwd=tmp_path, check=True)
    for role in ("serve", "train"):
        cuda, rest = ((tmp_path / f"{role}-{part}.txt").read_text() for part in ("cuda", "rest"))
        lock = (tmp_path / f"{role}.txt").read_text()
        lines = [line for line in lock.splitlines() if not line.startswith("#")]
        assert sorted(lines) == sorted((cuda + rest).splitlines())
        assert {"nvidia", "cuda", "torch", "torchvision", "triton"} >= set(
            re.findall(r"^([a-z]+)", cuda, re.M)
        )
        assert not re.search("^(nvidia|cuda|torch|triton)", rest, re.M)


def test_the_image_for_gpus_never_serves_from_the_cpu_in_silence():
    """Its own command names the device; that of CPUs does not."""
    assert '"--device", "cuda"]' in stage("serve")
    assert "cuda" not in stage("service") + stage("serve-cpu")


@pytest.mark.skipif(
    os.getuid() != 0 or not Path("/usr/bin/python3").exists(),
    reason="to become another user, with a Python that everyone may run, needs root",
)
def test_a_user_whom_the_image_does_not_know_has_a_home_and_a_name(tmp_path):
    """What Docker's `--user` gives: Python answers with the image's, and would fail without."""
    told = dict(re.findall(r"^    (HOME|USER)=(\S+)", stage("runtime"), re.M))
    code = "import getpass, pathlib; print(getpass.getuser(), pathlib.Path.home())"

    def ask(env: dict[str, str]) -> subprocess.CompletedProcess:
        return subprocess.run(["/usr/bin/python3", "-c", code], user=54321, group=54321, cwd="/",
                              env=env, capture_output=True, text=True)  # fmt: skip

    assert 0 != ask({}).returncode
    assert "hansang /tmp\n" == ask(told).stdout


def test_bytecode_of_all_that_a_server_imports_is_in_the_image(tmp_path):
    """The image's own command, into a folder of its own: what serves then compiles nothing."""
    command = re.search(r"^RUN (unset PYTHON.*?service\.probe.*?)\nUSER", stage("serve-cpu"),
                        re.M | re.S)[1]  # fmt: skip
    assert command in stage("serve")
    (tmp_path / "models").mkdir()
    command = command.replace("\\\n", "").replace("/models", str(tmp_path / "models"))
    env = {**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path / "pyc"), "PYTHONPATH": str(ROOT)}
    python = f'python() {{ {sys.executable} "$@"; }}; '
    subprocess.run(["sh", "-euc", python + command], env=env, cwd=tmp_path, check=True)
    code = (
        "import sys, service.probe, service.server.process, service.server.replicas, uvicorn\n"
        "specs = [m.__spec__ for m in sys.modules.values() if getattr(m, '__spec__', None)]\n"
        "from pathlib import Path\n"
        "print([s.name for s in specs if s.cached and not Path(s.cached).exists()])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                         cwd=tmp_path, env=env | {"PYTHONDONTWRITEBYTECODE": "1"})  # fmt: skip
    assert "[]\n" == ran.stdout


def test_what_is_left_of_botocore_is_enough_for_buckets(tmp_path):
    """By the Dockerfile's own command: S3, and the services by which one logs in there."""
    import botocore.loaders
    import botocore.session

    data = tmp_path / "lib/python3.11/site-packages/botocore/data"
    real = Path(botocore.loaders.__file__).with_name("data")
    data.mkdir(parents=True)
    for path in real.iterdir():
        (data / path.name).symlink_to(path) if path.is_file() else (data / path.name).mkdir()
    command = re.search(r"&& (find \S+/botocore/data .*?-exec rm -r {} \+)",
                        stage("packages-serve-cpu"), re.S)[1]  # fmt: skip
    command = command.replace("\\\n", "").replace("/opt/hansang", str(tmp_path))
    subprocess.run(["sh", "-euc", command], check=True)
    left = sorted(path for path in data.iterdir() if path.is_dir())
    assert 3 <= len(left) < 10 < len(list(real.iterdir()))
    for path in left:
        path.rmdir()
        path.symlink_to(real / path.name)

    session = botocore.session.Session()
    loader = botocore.loaders.Loader([str(data)], include_default_search_paths=False)
    session.register_component("data_loader", loader)
    for service in ("s3", "sts", "sso", "sso-oidc"):
        session.create_client(service, region_name="eu-central-1")


@pytest.fixture
def docker(tmp_path, monkeypatch):
    """A client on PATH that writes its calls down and answers as `answers` says."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def client(answers: str):
        script = f'#!/bin/sh\necho "$*" >> {tmp_path}/calls\ncase "$*" in\n{answers}\nesac\n'
        for name, text in (("docker", script), ("hadolint", "#!/bin/sh\n")):
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

        def run(
            file: Path, *given: str, **settings: str
        ) -> tuple[subprocess.CompletedProcess, list[str]]:
            ran = subprocess.run(["sh", str(file), *given], env={**os.environ, **settings},
                                 text=True, capture_output=True)  # fmt: skip
            return ran, (tmp_path / "calls").read_text().splitlines()

        return run

    return client


OFFLINE = "version*) echo {version} ;; buildx*) exit {buildx} ;; pull*) exit 1 ;;"


@pytest.mark.parametrize("version", ["28.2.2", "23.0.1"])
def test_image_test_refuses_a_client_without_buildx_before_it_builds(docker, version):
    """A sentence with the package to install, and nothing pulled, made or built."""
    run = docker(OFFLINE.format(version=version, buildx=1))
    ran, calls = run(ROOT / "deploy" / "image_test.sh")
    assert 1 == ran.returncode
    assert f"client {version} cannot build without its plugin buildx" in ran.stderr
    assert "docker-buildx" in ran.stderr
    assert ["info", "version", "buildx"] == [call.split()[0] for call in calls]


@pytest.mark.parametrize(
    ("images", "built"),
    [("serve-cpu", ["serve-cpu"]), ("train", ["postgres", "prometheus", "train"])],
)
def test_image_test_builds_no_stand_in_that_it_does_not_use(docker, images, built):
    """Offline, only Compose needs a PostgreSQL and a Prometheus of Debian's."""
    run = docker(OFFLINE.format(version="20.10.24", buildx=1))
    ran, calls = run(ROOT / "deploy" / "image_test.sh", IMAGES=images, PYTHON="true", KEEP="1")
    assert 0 == ran.returncode, ran.stderr
    tags = [re.search(r"--tag hansang-test:(\S+)", call) for call in calls]
    assert built == [tag[1] for tag in tags if tag]


def test_images_of_others_are_pinned_in_env_by_what_the_registry_says(docker, tmp_path):
    """A line for each, once, also after a second time; ours are built here; the rest stays."""
    (tmp_path / "compose.yaml").write_text((ROOT / "compose.yaml").read_text())
    (tmp_path / ".env").write_text("BIND=127.0.0.1\nGRAFANA_IMAGE=old\n")
    digest = f"sha256:{'ab' * 32}"
    run = docker(f"image*) echo some/name@{digest} ;;")
    for _ in range(2):
        ran, calls = run(ROOT / "deploy" / "pin_images.sh", str(tmp_path))
        assert 0 == ran.returncode, ran.stderr
    first, *pinned = (tmp_path / ".env").read_text().splitlines()
    assert "BIND=127.0.0.1" == first
    names = [line.split("=")[0] for line in pinned]
    assert ["ALERTMANAGER_IMAGE", "GRAFANA_IMAGE", "POSTGRES_IMAGE", "PROMETHEUS_IMAGE"] == names
    for line in pinned:
        assert re.fullmatch(rf"[A-Z_]+=[\w/.-]+:v?\d[\w.-]*@{digest}", line), line
    assert not any("hansang" in call for call in calls)


def test_an_image_without_a_digest_is_not_pinned(docker, tmp_path):
    """A sentence, and .env as it was."""
    (tmp_path / "compose.yaml").write_text((ROOT / "compose.yaml").read_text())
    (tmp_path / ".env").write_text("BIND=127.0.0.1\n")
    ran, _ = docker("image*) ;;")(ROOT / "deploy" / "pin_images.sh", str(tmp_path))
    assert 1 == ran.returncode
    assert "has no digest" in ran.stderr
    assert "BIND=127.0.0.1\n" == (tmp_path / ".env").read_text()


def test_unhealthy_parts_are_restarted_and_named(docker):
    """Those of this project with the label, each by its name; a second project is left alone."""
    run = docker("ps*) echo abc; echo def ;; inspect*abc) echo /hansang-service-1 ;;")
    ran, calls = run(ROOT / "deploy" / "restart_unhealthy.sh", COMPOSE_PROJECT_NAME="food")
    assert 0 == ran.returncode, ran.stderr
    assert "hansang-service-1 is unhealthy: restarted" in ran.stdout
    asked, *rest = calls
    for wanted in ("health=unhealthy", "hansang.restart=unhealthy", "compose.project=food"):
        assert wanted in asked
    assert ["restart abc", "restart def"] == [call for call in rest if call.startswith("restart")]
