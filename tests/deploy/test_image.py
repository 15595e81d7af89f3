"""The images as production runs them: read-only, without capabilities, as a user of no rights."""

import io
import json
import os
import subprocess
import time
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import rig
from service.model_store import ModelStore

docker = rig.load(Path(__file__).with_name("conftest.py")).docker

IMAGES = {name: f"hansang:{name}" for name in os.environ.get("HANSANG_IMAGES", "").split()}
MOST_MB = {"serve-cpu": 400, "serve": 2900}


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """Give a model repository that any user can read."""
    folder = tmp_path_factory.mktemp("image")
    store = ModelStore(folder / "models")
    store.publish("food", rig.tiny_model(folder / "tiny.onnx"))
    subprocess.run(["chmod", "-R", "a+rX", folder, *folder.parents[:2]], check=True)
    return store.root


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
    own = {"/cache", "/data", "/models", "/runs", "/tmp", "/var/tmp", "/run/lock", "/var/lock"}
    assert "10001" == found.split()[0]
    assert set(found.split()[1:]) <= own


@pytest.mark.parametrize("name", sorted(IMAGES))
def test_labels_and_commands(name):
    """OCI labels name it, commands are in exec form, and it stops by SIGTERM."""
    config = json.loads(docker("inspect", "-f", "{{json .Config}}", IMAGES[name]))
    assert "Hansang" == config["Labels"]["org.opencontainers.image.title"]
    assert {"version", "revision", "created"} <= {
        label.rsplit(".", 1)[1] for label in config["Labels"]
    }
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
    server = start(IMAGES[name], "--memory", "1g", "-v", f"{repository}:/models:ro")
    serving(server)
    assert "SERVING\n" == server.run("python", "-m", "service.probe")
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
    """Half a core makes one worker of it, and 200 MB are enough for a small model."""
    limits = ("--memory", "200m", "--cpus", "0.5", "-v", f"{repository}:/models:ro")
    server = start(IMAGES["serve-cpu"], *limits)
    serving(server)
    cores = "from service.config import num_cores; print(num_cores())"
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
    found = docker("run", "--rm", "--tmpfs", "/tmp", "--entrypoint", "python", "hansang:train",
                   "-c", code).split()  # fmt: skip
    lock = (Path(__file__).parents[2] / "requirements" / "serve.txt").read_text()
    assert f"nvidia-cudnn-cu13=={found[-2]} " in lock
    assert f"nvidia-cublas=={found[-1]} " in lock
