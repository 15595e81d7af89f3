"""The scripts of examples/ run as their docstrings say."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import rig
from flows.local.demo import free_port
from service.client import Classifier
from service.models.repository import ModelRepository
from tests.commands import script
from tests.paths import ROOT
from tests.thin import thin_network
from training.samples.sample import draw_photos

EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Run the example that trains, in a folder of its own; give the folder and its output."""
    folder = tmp_path_factory.mktemp("examples")
    draw_photos(folder / "photos", classes=3, per_class=20)
    photo = next((folder / "photos" / "val").glob("*/*"))
    with thin_network():
        return folder, script(EXAMPLES / "train_and_classify.py", "photos", photo, cwd=folder)


@pytest.fixture(scope="module")
def server(trained: tuple[Path, str]) -> Iterator[tuple[int, int]]:
    """Serve what the example has trained; give the ports of calls and of metrics."""
    folder, _ = trained
    ModelRepository(folder / "models").publish("food", folder / "model.onnx")
    port, metrics = free_port(), free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "hansang", "serve", "--host", "127.0.0.1", "--port", str(port),
         "--http-port", "0", "--metrics-port", str(metrics)],
        cwd=folder,
    )  # fmt: skip
    try:
        # Patient: a model is loaded and warmed up before the first call is taken.
        with Classifier(f"localhost:{port}", timeout_s=100, retries=1000) as classifier:
            classifier.model()
        yield port, metrics
    finally:
        process.terminate()
        process.wait(30)


def test_train_and_classify(trained: tuple[Path, str]) -> None:
    """It prints the accuracy, and a probability for each class."""
    _, output = trained
    assert re.search(r"^\d+\.\d% of the validation photos are right$", output, re.MULTILINE)
    assert 100 == pytest.approx(sum(map(float, re.findall(r"^ *([\d.]+)%  ", output, re.M))), abs=1)


def test_call_from_python_and_watch(trained: tuple[Path, str], server: tuple[int, int]) -> None:
    """Each photo is answered, alone and over a stream; meanwhile the other example counts them."""
    folder, (port, metrics) = trained[0], server
    photos = sorted((folder / "photos" / "val").glob("*/*"))
    watching = subprocess.Popen(
        [sys.executable, EXAMPLES / "watch_a_server.py",
         f"http://127.0.0.1:{metrics}/metrics", "15"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    output = script(EXAMPLES / "call_from_python.py", f"localhost:{port}", *photos, cwd=folder)

    assert len(photos) == output.count(", version 1\n")
    assert f"{len(photos)} photos over one stream" in output
    seen, _ = watching.communicate(timeout=60)
    assert re.search(r"^[\d.]+ images/s$", seen, re.MULTILINE)
    assert re.search(r"^decode +\d+ times, [\d.]+ ms each$", seen, re.MULTILINE)


def test_notebook(both_ports: tuple[int, int, Path], tmp_path: Path) -> None:
    """Its cells run from the first to the last, and name what is on the photo."""
    port, _, photo = both_ports
    cells = json.loads((EXAMPLES / "classify.ipynb").read_text())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HANSANG_ADDRESS": f"localhost:{port}", "HANSANG_PHOTO": str(photo),
             "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"},
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert 0 == ran.returncode, ran.stderr
    model, *classes = ran.stdout.splitlines()
    assert "food, version 1: 3 classes" == model
    assert classes[0].endswith("%  red")


GO_PACKAGES = Path("/usr/share/gocode")
"""Where Debian's packages of Go libraries lie."""


@pytest.mark.long
@pytest.mark.skipif(
    not all(map(shutil.which, ("go", "protoc-gen-go", "protoc-gen-go-grpc")))
    or not (GO_PACKAGES / "src/google.golang.org/grpc").is_dir(),
    reason="Go and its gRPC packages are not installed (docs/guides/other-languages.md)",
)
def test_go(both_ports: tuple[int, int, Path], tmp_path: Path) -> None:
    """The stubs that protoc makes of proto/ and the example compile, and are answered."""
    port, _, photo = both_ports
    source, package = tmp_path / "src", "example.org/hansang"
    shutil.copytree(EXAMPLES / "go", source / package / "classify")
    stubs = f"Mhansang/v1/classifier.proto={package}/pb"
    protoc = [
        sys.executable, "-m", "grpc_tools.protoc", "-I", ROOT / "proto",
        f"--go_out={source}", f"--go-grpc_out={source}", f"--go_opt={stubs}",
        f"--go-grpc_opt={stubs}", "hansang/v1/classifier.proto",
    ]  # fmt: skip
    built = tmp_path / "built"
    environment = {**os.environ, "GO111MODULE": "off", "GOPATH": f"{tmp_path}:{GO_PACKAGES}",
                   "GOCACHE": str(tmp_path / "cache"), "GOFLAGS": "-p=1"}  # fmt: skip
    for command in (protoc, ["go", "build", "-o", built, f"{package}/classify"]):
        ran = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert 0 == ran.returncode, ran.stderr

    ran = subprocess.run(
        [built, f"localhost:{port}", photo, __file__], capture_output=True, text=True
    )
    assert 0 == ran.returncode, ran.stderr
    red, error, model = ran.stdout.splitlines()
    assert red.startswith(f"{photo}: red ")
    assert "JPEG" in error
    assert "model food, version 1" == model

    away = subprocess.run([built, "localhost:1", photo], capture_output=True, text=True)
    assert 1 == away.returncode
    assert away.stderr.startswith("Unavailable: ")


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_short(script: Path) -> None:
    """A page that one screen shows."""
    assert len(script.read_text().splitlines()) < 40


@pytest.fixture
def both_ports(tmp_path: Path) -> Iterator[tuple[int, int, Path]]:
    """Serve a tiny model; give its gRPC port, its HTTP port and a photo."""
    store = ModelRepository(tmp_path / "models")
    store.publish("food", rig.tiny_model(tmp_path / "tiny.onnx"))
    photo = tmp_path / "red.jpg"
    Image.new("RGB", (32, 32), (255, 0, 0)).save(photo)
    with rig.Server(store.root) as server:
        yield server.port, server.http_port, photo


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_curl(both_ports: tuple[int, int, Path]) -> None:
    """Each form of body is answered; a wrong model ends with curl's code and the sentence."""
    _, port, photo = both_ports
    script = [EXAMPLES / "curl.sh", f"localhost:{port}"]
    ran = subprocess.run([*script, "food", photo], capture_output=True, text=True)
    assert 0 == ran.returncode, ran.stderr
    one, two, as_json, model = (json.loads(line) for line in ran.stdout.splitlines())
    assert [1, 2, 1] == [len(each["results"]) for each in (one, two, as_json)]
    assert "red" == one["results"][0]["classes"][0]["label"]
    assert "food" == model["name"]

    ran = subprocess.run([*script, "other", photo], capture_output=True, text=True)
    assert 22 == ran.returncode
    assert "there is food" in ran.stdout


@pytest.mark.skipif(not shutil.which("npm"), reason="npm is not installed")
def test_node(both_ports: tuple[int, int, Path], tmp_path: Path) -> None:
    """grpc-js loads the protos as they lie in proto/, and is answered."""
    port, _, photo = both_ports
    copy = shutil.copytree(EXAMPLES / "node", tmp_path / "examples" / "node")
    (tmp_path / "proto").symlink_to(ROOT / "proto")
    install = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts"]
    installed = subprocess.run(install, cwd=copy, capture_output=True, text=True)
    if installed.returncode:
        pytest.skip(f"npm has no registry: {installed.stderr.splitlines()[:1]}")
    command = ["node", "classify.js", f"localhost:{port}", photo, __file__]
    ran = subprocess.run(command, cwd=copy, capture_output=True, text=True)
    assert 0 == ran.returncode, ran.stderr
    red, error, model = ran.stdout.splitlines()
    assert red.startswith(f"{photo}: red ")
    assert "JPEG" in error
    assert "model food, version 1" == model

    away = subprocess.run([*command[:2], "localhost:1", photo], cwd=copy, capture_output=True)
    assert 1 == away.returncode
    assert b"UNAVAILABLE" in away.stderr or b"DEADLINE_EXCEEDED" in away.stderr
