"""The scripts of examples/ run as their docstrings say."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.local.demo import free_port
from service.client import Classifier
from service.models.repository import ModelRepository
from tests.paths import ROOT
from training.samples.sample import draw

EXAMPLES = ROOT / "examples"


def run(name: str, *arguments: object, cwd: Path) -> str:
    """Run an example; return what it printed."""
    ran = subprocess.run(
        [sys.executable, EXAMPLES / name, *map(str, arguments)],
        cwd=cwd, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        timeout=240,
    )  # fmt: skip
    assert 0 == ran.returncode, ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Run the example that trains, in a folder of its own; give the folder and its output."""
    folder = tmp_path_factory.mktemp("examples")
    draw(folder / "photos", classes=3, per_class=20)
    photo = next((folder / "photos" / "val").glob("*/*"))
    return folder, run("train_and_classify.py", "photos", photo, cwd=folder)


@pytest.fixture(scope="module")
def server(trained: tuple[Path, str]) -> Iterator[tuple[int, int]]:
    """Serve what the example has trained; give the ports of calls and of metrics."""
    folder, _ = trained
    ModelRepository(folder / "models").publish("food", folder / "model.onnx")
    port, metrics = free_port(), free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "hansang", "serve", "--host", "127.0.0.1", "--port", str(port),
         "--metrics-port", str(metrics)],
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
    output = run("call_from_python.py", f"localhost:{port}", *photos, cwd=folder)

    assert len(photos) == output.count(", version 1\n")
    assert f"{len(photos)} photos over one stream" in output
    seen, _ = watching.communicate(timeout=60)
    assert re.search(r"^[\d.]+ images/s$", seen, re.MULTILINE)
    assert re.search(r"^decode +\d+ times, [\d.]+ ms each$", seen, re.MULTILINE)


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_short(script: Path) -> None:
    """A page that one screen shows."""
    assert len(script.read_text().splitlines()) < 40
