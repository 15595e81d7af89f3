"""The wheel and the sdist, as people install them: built here, into environments of their own."""

import io
import os
import re
import signal
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image

import service
from benchmarks import rig

ROOT = Path(__file__).parents[2]
VERSION = service.__version__
SITE = sysconfig.get_path("purelib")


def run(*command: object, **options) -> subprocess.CompletedProcess:
    """Run a command away from the source tree, where only what is installed can be imported."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=280,
        env=environment,
        **options,
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """Give the folder with the wheel and the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    ran = run(sys.executable, "-m", "hatchling", "build", "-d", folder, cwd=ROOT)
    assert 0 == ran.returncode, ran.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(built) -> Path:
    """Give the wheel."""
    return built / f"hansang-{VERSION}-py3-none-any.whl"


class Environment:
    """A virtual environment: empty, with packages from a registry, or over those of this one."""

    def __init__(self, folder: Path, wheel: Path, extra: str = "", *, over: str = "") -> None:
        self.bin = folder / "bin"
        self.folder = folder
        # pip of its own, and bytecode of what is hardly run, would take most of the time.
        run(sys.executable, "-m", "venv", "--without-pip", folder, check=True)
        if over:
            site = next(folder.glob("lib/python*/site-packages"))
            (site / "over.pth").write_text(over)
        what = f"{wheel}[{extra}]" if extra else wheel
        alone = ("--no-deps",) if over else ()
        pip = (sys.executable, "-m", "pip", "--python", self.bin / "python")
        ran = run(*pip, "install", "-q", "--no-compile", *alone, what, cwd=folder)
        if "No matching distribution" in ran.stderr or "Temporary failure" in ran.stderr:
            pytest.skip(f"no package index: {ran.stderr.splitlines()[-1]}")
        assert 0 == ran.returncode, ran.stderr

    def hansang(self, *arguments: object) -> subprocess.CompletedProcess:
        """Run the installed command."""
        return run(self.bin / "hansang", *arguments, cwd=self.folder)


@pytest.fixture(scope="module")
def light(tmp_path_factory, wheel) -> Environment:
    """Give an environment that has the package and what it depends on, no extra."""
    return Environment(tmp_path_factory.mktemp("light") / "env", wheel)


@pytest.fixture(scope="module")
def serving(tmp_path_factory, wheel) -> Environment:
    """Give an environment that has the extra `serve`."""
    return Environment(tmp_path_factory.mktemp("serving") / "env", wheel, "serve")


def test_the_wheel_has_all_that_runs(wheel, built):
    """Stubs, protos, pages, fonts and their licence are in it; each file of git's is, in both."""
    tracked = subprocess.run(
        ["git", "ls-files", "service", "training", "flows", "hansang.py"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    with tarfile.open(built / f"hansang-{VERSION}.tar.gz") as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    held = set(zipfile.ZipFile(wheel).namelist())

    assert set(tracked) <= held
    assert set(tracked) <= packed
    assert {"service/pb/classifier.proto", "service/pb/inference.proto"} <= held
    assert "proto/hansang/v1/classifier.proto" in packed


def test_the_sdist_builds_the_same_wheel(built, wheel, tmp_path):
    """What is built from the archive alone holds the very files of the wheel."""
    with tarfile.open(built / f"hansang-{VERSION}.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    ran = run(
        sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path / "again",
        cwd=tmp_path / f"hansang-{VERSION}",
    )  # fmt: skip
    assert 0 == ran.returncode, ran.stderr

    again = zipfile.ZipFile(next((tmp_path / "again").glob("*.whl")))
    first = zipfile.ZipFile(wheel)
    assert {f.filename: f.CRC for f in first.infolist()} == {
        f.filename: f.CRC for f in again.infolist()
    }


def test_without_an_extra_it_helps_and_says_which_is_missing(light):
    """`--help`, `--version` and `classify` need no extra; other verbs name theirs."""
    assert f"hansang {VERSION}\n" == light.hansang("--version").stdout
    assert "classify" in light.hansang("--help").stdout
    assert "--epochs" in light.hansang("train", "--help").stdout
    Image.new("RGB", (8, 8)).save(light.folder / "dish.png")
    (light.folder / "models").mkdir()

    refused = light.hansang("classify", light.folder / "dish.png", "--address", "127.0.0.1:1")
    assert 1 == refused.returncode
    assert "127.0.0.1:1" in refused.stderr
    for verb, extra, arguments in (
        ("serve", "serve", ()),
        ("train", "train", (light.folder,)),
        ("sample", "train", ("photos",)),
        ("release", "train", (light.folder,)),
    ):
        said = light.hansang(verb, *arguments).stderr
        assert re.search(
            rf"^error: {verb} needs \w+, which is not installed:"
            rf" pip install 'hansang\[{extra}\]=={VERSION}'$",
            said.strip(),
        ), said


def test_serve_answers_from_the_wheel(serving, tmp_path):
    """With the extra `serve` the installed command serves, and the installed client is answered."""
    from service.models.repository import ModelRepository

    ModelRepository(tmp_path / "models").publish("food", rig.tiny_model(tmp_path / "tiny.onnx"))
    photo = tmp_path / "dish.jpg"
    stream = io.BytesIO()
    Image.new("RGB", (64, 64), (200, 80, 20)).save(stream, "JPEG")
    photo.write_bytes(stream.getvalue())
    begun = subprocess.Popen(
        [serving.bin / "hansang", "serve", "--repository", tmp_path / "models", "--host",
         "127.0.0.1", "--port", "0", "--http-port", "0", "--metrics-port", "0",
         "--drain-delay", "0"],
        cwd=tmp_path, stderr=subprocess.PIPE, text=True,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
    )  # fmt: skip
    with begun as server:
        try:
            told = next(line for line in server.stderr if "serving food version 1" in line)
            address = told.rpartition(" at ")[2].strip()
            answer = serving.hansang("classify", photo, "--address", address, "--json")
            server.send_signal(signal.SIGTERM)
            ended = server.wait(30)
        finally:
            server.kill()

    assert 0 == answer.returncode, answer.stderr
    assert '"probability"' in answer.stdout
    assert 0 == ended
    assert 1 == run(serving.bin / "python", "-c", "import torch").returncode


def test_train_runs_from_the_wheel(tmp_path, wheel):
    """Over the packages of this environment, the installed command draws photos and trains."""
    over = [line for line in sys.path if line.endswith("site-packages")]
    trained = Environment(tmp_path / "env", wheel, "train", over="\n".join(over))
    drawn = trained.hansang("sample", tmp_path / "photos", "--classes", 2, "--per-class", 6)
    assert 0 == drawn.returncode, drawn.stderr
    ran = trained.hansang(
        "train", tmp_path / "photos", "--runs-dir", tmp_path / "runs", "--cache-dir",
        tmp_path / "cache", "--run", "first", "--epochs", 1, "--image-size", 32, "--threads", 1,
        "--set", "batch_size=4",
    )  # fmt: skip
    assert 0 == ran.returncode, ran.stderr
    where = run(
        trained.bin / "python", "-c", "import training; print(training.__file__)", cwd=tmp_path
    )
    assert where.stdout.startswith(str(tmp_path / "env"))
    assert (tmp_path / "runs" / "first" / "report.html").exists()
