"""The images as production runs them: read-only, without capabilities, as a user of no rights."""

import io
import json
import os
import subprocess
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import rig
from service.client import Classifier
from service.devices import num_gpus
from service.errors import ServiceError
from service.models.repository import ModelRepository
from tests.deploy.conftest import docker
from tests.paths import ROOT

IMAGES = {name: f"hansang-test:{name}" for name in os.environ.get("HANSANG_IMAGES", "").split()}
MOST_MB = {"serve-cpu": 480, "serve": 2900}
PORT = ("--publish", "127.0.0.1::8500")
# The image for GPUs would end where there is none: it is told to take what there is.
ANYWHERE = ("serve", "--repository", "/models", "--log-format", "json")


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """Give a model repository that any user can read."""
    folder = tmp_path_factory.mktemp("image")
    store = ModelRepository(folder / "models")
    store.publish("food", rig.tiny_model(folder / "tiny.onnx"))
    subprocess.run(["chmod", "-R", "a+rX", folder, *folder.parents[:2]], check=True)
    return store.root


def address(container) -> str:
    """Return where this machine reaches a container with PORT."""
    return docker("port", container.name, "8500/tcp").split()[0]


def serving(container, *, within_s: float = 90) -> None:
    """Wait until Docker's own health check passes."""
    end_s = time.monotonic() + within_s
    while container.state()["Health"]["Status"] != "healthy":
        assert container.state()["Running"], container.logs()
        assert time.monotonic() < end_s, container.state()["Health"]
        time.sleep(0.5)


@pytest.mark.parametrize("name", [name for name in MOST_MB if name in IMAGES])
def test_size(name):
    """Uncompressed, an image is no larger than was promised."""
    size = json.loads(docker("inspect", "-f", "{{.Size}}", IMAGES[name])) / 1e6
    print(f"{name}: {size:.0f} MB")
    assert size <= MOST_MB[name]


@pytest.mark.parametrize("name", [name for name in MOST_MB if name in IMAGES])
def test_what_serves_has_no_torch_and_no_installer(name):
    """Neither torch, Prefect nor pip is there, nor a package that only training needs."""
    code = (
        "import importlib.util as u;"
        "print([m for m in ('torch', 'torchvision', 'onnx', 'prefect', 'optuna', 'pip', 'training',"
        " 'flows', 'pytest') if u.find_spec(m)])"
    )
    assert "[]\n" == docker("run", "--rm", "--entrypoint", "python", IMAGES[name], "-c", code)


@pytest.mark.parametrize("name", sorted(IMAGES))
def test_user_can_write_nothing_that_is_run(name):
    """UID 10001 owns the folders of volumes, and can write into nothing else but /tmp."""
    found = docker(
        *("run", "--rm", "--entrypoint", "sh", IMAGES[name], "-c"),
        "id -u; find / -xdev -writable -not -type l"
        " -not -path '/proc*' -not -path '/sys*' -not -path '/dev*' 2>/dev/null | sort",
    )
    own = {
        "/cache",
        "/data",
        "/models",
        "/prefect",
        "/runs",
        "/tmp",
        "/var/tmp",
        "/run/lock",
        "/var/lock",
    }
    assert "10001" == found.split()[0]
    assert set(found.split()[1:]) <= own


@pytest.mark.parametrize("name", sorted(IMAGES))
def test_labels_and_commands(name):
    """OCI labels name it, commands are in exec form, and it stops by SIGTERM."""
    config = json.loads(docker("inspect", "-f", "{{json .Config}}", IMAGES[name]))
    assert "Hansang" == config["Labels"]["org.opencontainers.image.title"]
    for label in ("version", "revision", "created"):
        wanted = os.environ[f"HANSANG_{label.upper()}"]
        assert wanted == config["Labels"][f"org.opencontainers.image.{label}"]
    assert ["python", "-m", "hansang"] == config["Entrypoint"]
    assert "10001:10001" == config["User"]
    assert "SIGTERM" == config["StopSignal"]
    assert "ORT_DISABLE_TELEMETRY=1" in config["Env"]
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility" in config["Env"]


@pytest.mark.parametrize("name", [name for name in MOST_MB if name in IMAGES])
def test_serves_classifies_from_another_container_and_drains(name, start, repository, tmp_path):
    """Healthy within a gigabyte; another container classifies; SIGTERM drains and exits 0."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(3):
        buffer = io.BytesIO()
        Image.new("RGB", (60, 40), (200, 0, number)).save(buffer, "JPEG")
        (photos / f"{number}.jpg").write_bytes(buffer.getvalue())
    subprocess.run(["chmod", "-R", "a+rX", *[tmp_path, *tmp_path.parents][:3]], check=True)
    limits = ("--memory", "1g")
    server = start(IMAGES[name], *limits, "-v", f"{repository}:/models:ro", command=ANYWHERE)
    serving(server)
    assert "SERVING\n" == server.run("python", "-m", "service.probe")
    for place in ("/app/new", "/opt/hansang/new", "/models/new", "/etc/new"):
        told = docker("exec", "--user", "0", server.name, "touch", place, check=False)
        assert "Read-only file system" in told
    answers = docker(
        *("run", "--rm", "--network", f"container:{server.name}", "--read-only", "--cap-drop"),
        *("ALL", "-v", f"{photos}:/photos:ro", IMAGES[name]),
        *("classify", "/photos", "--address", "localhost:8500", "--json"),
    )
    assert 3 == answers.count('"red"'), answers
    docker("stop", "--time", "30", server.name)
    state = server.state()
    assert (0, False) == (state["ExitCode"], state["OOMKilled"]), server.logs()
    assert '"drained"' in server.logs()


@pytest.mark.parametrize("name", [name for name in MOST_MB if name in IMAGES])
def test_calls_in_flight_are_answered_when_it_drains(name, start, repository):
    """SIGTERM meets calls that are being computed, and more come within its delay: none fails."""
    server = start(IMAGES[name], *PORT, "-v", f"{repository}:/models:ro", command=ANYWHERE)
    serving(server)
    photos = rig.photos(64, size=(1000, 750))
    calls: list[tuple[float, float, str]] = []
    ended = threading.Event()

    def ask() -> None:
        # No retries: what fails, fails.
        with Classifier(address(server), retries=0, timeout_s=60) as classifier:
            while not ended.is_set():
                begun_s, said = time.monotonic(), ""
                try:
                    answers = classifier.classify(photos)
                    said = next((answer.error for answer in answers if answer.error), "")
                except ServiceError as error:
                    said = repr(error)
                    ended.set()
                calls.append((begun_s, time.monotonic(), said))

    callers = [threading.Thread(target=ask) for _ in range(3)]
    for caller in callers:
        caller.start()
    ended.wait(5)
    told_s = time.monotonic()
    docker("kill", "--signal", "TERM", server.name)
    for caller in callers:
        caller.join(60)
    assert "0\n" == docker("wait", server.name, timeout=30)
    in_flight = [said for begun_s, ended_s, said in calls if begun_s < told_s < ended_s]
    print(f"{name}: {len(in_flight)} calls in flight at SIGTERM")
    assert len(in_flight) >= 2
    # New calls are taken for --drain-delay, which is 2 s; docker itself takes a while to tell.
    assert not any(said for begun_s, _, said in calls if begun_s < told_s + 1), (told_s, calls)
    assert '"drained"' in server.logs()


@pytest.mark.skipif("serve" not in IMAGES, reason="serve is not among the images")
@pytest.mark.skipif(num_gpus() > 0, reason="there is a CUDA device here")
def test_the_image_for_gpus_ends_where_there_is_none(start, repository):
    """As it is started by default: the sentence names the driver, and nothing serves."""
    server = start(IMAGES["serve"], "-v", f"{repository}:/models:ro")
    assert "0\n" != docker("wait", server.name, timeout=60)
    assert "needs driver 580 or newer" in server.logs()


@pytest.mark.parametrize("name", [name for name in MOST_MB if name in IMAGES])
def test_a_probe_has_bytecode(name):
    """It runs every ten seconds: nothing that it imports is compiled anew."""
    code = (
        "import sys, pathlib, service.probe;"
        "specs = [m.__spec__ for m in sys.modules.values() if getattr(m, '__spec__', None)];"
        "print([s.name for s in specs if s.cached and not pathlib.Path(s.cached).exists()])"
    )
    found = docker("run", "--rm", "--entrypoint", "python", IMAGES[name], "-c", code)
    assert "[]\n" == found


@pytest.mark.parametrize("name", [name for name in MOST_MB if name in IMAGES])
def test_health_turns_when_it_drains(name, start, repository):
    """During a long drain delay the probe in the container fails, and calls are still taken."""
    command = ("serve", "--repository", "/models", "--drain-delay", "20")
    server = start(IMAGES[name], "-v", f"{repository}:/models:ro", command=command)
    serving(server)
    docker("kill", "--signal", "TERM", server.name)
    time.sleep(1)
    assert "NOT_SERVING\n" == server.run("python", "-m", "service.probe", check=False)
    docker("kill", "--signal", "TERM", server.name)
    assert "0\n" == docker("wait", server.name, timeout=30)


@pytest.mark.skipif("serve-cpu" not in IMAGES, reason="serve-cpu is not among the images")
def test_limits_of_the_container_are_kept(start, repository):
    """Half a core makes one worker of it; 200 MB are enough for a small model and 640 photos."""
    limits = ("--memory", "200m", "--memory-swap", "200m", "--cpus", "0.5")
    server = start(IMAGES["serve-cpu"], *limits, *PORT, "-v", f"{repository}:/models:ro")
    serving(server)
    photos = rig.photos(64)
    with Classifier(address(server)) as classifier:
        for _ in range(10):
            assert all(answer.error is None for answer in classifier.classify(photos))
    cores = "from machine import num_cores; print(num_cores())"
    assert "1\n" == server.run("python", "-c", cores)
    assert not server.state()["OOMKilled"]


@pytest.mark.skipif("serve-cpu" not in IMAGES, reason="serve-cpu is not among the images")
def test_verbs_that_are_not_there_say_so():
    """The image that serves offers what it can do, and names the image that trains."""
    said = docker("run", "--rm", IMAGES["serve-cpu"], "--help")
    assert "serve" in said
    assert "train " not in said
    said = docker("run", "--rm", IMAGES["serve-cpu"], "train", "/data", check=False)
    assert "hansang:train" in said
    assert "Traceback" not in said


@pytest.mark.skipif("train" not in IMAGES, reason="train is not among the images")
def test_training_image_has_both_rooms_and_the_same_cuda():
    """It trains and serves; torch, Prefect and onnxruntime stand on one set of CUDA wheels."""
    code = (
        "import torch, prefect, onnxruntime, training, flows, service;"
        "from importlib.metadata import version as v;"
        "print(v('nvidia-cudnn-cu13'), v('nvidia-cublas'))"
    )
    found = docker("run", "--rm", "--tmpfs", "/tmp", "--entrypoint", "python", IMAGES["train"],
                   "-c", code).split()  # fmt: skip
    lock = (ROOT / "requirements" / "serve.txt").read_text()
    assert f"nvidia-cudnn-cu13=={found[-2]} " in lock
    assert f"nvidia-cublas=={found[-1]} " in lock


@pytest.mark.skipif("train" not in IMAGES, reason="train is not among the images")
def test_training_image_compiles_as_triton_does_and_loads_it():
    """As a worker runs: Triton's own builder makes a module from C, and Python loads it."""
    source = """
#include <Python.h>
#include <dlfcn.h>
static PyObject* answer(PyObject* self, PyObject* none) { return PyLong_FromLong(42); }
static PyMethodDef methods[] = {{"answer", answer, METH_NOARGS, ""}, {0}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "stub", 0, -1, methods};
PyMODINIT_FUNC PyInit_stub(void) { return PyModule_Create(&module); }
"""
    code = (
        "from triton.runtime.build import compile_module_from_src as build;"
        f"stub = build({source!r}, 'stub'); print(stub.__file__, stub.answer())"
    )
    hardened = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
    found = docker("run", "--rm", *hardened, "--tmpfs", "/tmp:exec", "--entrypoint", "python",
                   IMAGES["train"], "-c", code)  # fmt: skip
    assert found.startswith("/tmp/"), found
    assert found.endswith(" 42\n"), found
