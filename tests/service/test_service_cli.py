"""The verbs serve, classify and rollback, as processes of their own."""

import asyncio
import inspect
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "ORT_DISABLE_TELEMETRY": "1",
    "COLUMNS": "200",
    "NO_COLOR": "1",
    "TERM": "dumb",
}


def hansang(*arguments: object) -> subprocess.CompletedProcess:
    """Run the command line to its end."""
    return subprocess.run(
        [sys.executable, "-m", "hansang", *map(str, arguments)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
async def classify(publish, serve):
    """`await classify(photo, …)` runs `hansang classify` against a server with model `food`."""
    publish("food")
    server = await serve()

    async def run(*arguments: object) -> subprocess.CompletedProcess:
        address = f"127.0.0.1:{server.port}"
        return await asyncio.to_thread(hansang, "classify", *arguments, "--address", address)

    return run


@pytest.fixture
def photos(photo, tmp_path) -> Path:
    """A folder with a red and a blue photo, and things that are no photos."""
    folder = tmp_path / "photos"
    (folder / "inner.jpg").mkdir(parents=True)
    (folder / "[red] one.jpg").write_bytes(photo("red"))
    (folder / "inner.jpg" / "푸른.PNG").write_bytes(photo("blue", kind="PNG"))
    (folder / "notes.txt").write_text("no photo")
    (folder / "._hidden.jpg").write_text("no photo")
    return folder


async def test_photos_are_shown_in_a_table(classify, photos):
    """Files and folders: each photo with its name and its classes, and exit code 0."""
    done = await classify(photos)
    assert 0 == done.returncode, done.stderr
    assert "food version 1" in done.stdout
    assert re.search(r"\[red\] one\.jpg\W+red \d", done.stdout)
    assert re.search(r"푸른\.PNG\W+blue \d", done.stdout)
    assert "hidden" not in done.stdout
    assert "notes" not in done.stdout


async def test_json_is_for_scripts(classify, photos):
    """`--json` prints nothing else on stdout."""
    done = await classify(photos, "--json", "--top-k", 2)
    answers = json.loads(done.stdout)
    assert 0 == done.returncode
    assert ["red", "blue"] == [each["classes"][0]["label"] for each in answers]
    for answer in answers:
        assert {"photo", "error", "model", "model_version", "classes"} == set(answer)
        assert (None, "food", 1) == (answer["error"], answer["model"], answer["model_version"])
        assert 2 == len(answer["classes"])


async def test_bad_photo_spares_the_others(classify, photos):
    """It is listed with its reason, the others are answered, and the exit code is 1."""
    bad = photos / "bad.jpg"
    bad.write_bytes(b"junk")
    done = await classify(bad, photos / "[red] one.jpg")
    assert 1 == done.returncode
    assert "not a JPEG, PNG or WebP" in done.stdout
    assert re.search(r"one\.jpg\W+red", done.stdout)
    assert "error: 1 of 2 photos" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
async def test_unreadable_file_spares_the_others(classify, photos):
    """A file that may not be read is an error of its own."""
    (photos / "[red] one.jpg").chmod(0)
    done = await classify(photos)
    assert 1 == done.returncode
    assert "cannot be read: Permission denied" in done.stdout
    assert "blue" in done.stdout


def test_file_that_went_away_is_its_own_error(photos):
    """Between the listing and the reading a file may go; the others keep their places."""
    from service.classify_cli import _read

    here, gone = photos / "[red] one.jpg", photos / "gone.jpg"
    images, unread = _read([gone, here])
    assert [here.read_bytes()] == images
    assert [gone] == list(unread)
    assert "cannot be read: No such file" in unread[gone].error


def test_nothing_to_classify_is_told(tmp_path):
    """A folder without photos and a path that is not there are named."""
    for path, reason in ((tmp_path, "no photos"), (tmp_path / "soup.jpg", "soup.jpg")):
        done = hansang("classify", path)
        assert 1 == done.returncode
        assert reason in done.stderr
        assert "Traceback" not in done.stderr


def test_no_service_is_told(photos):
    """The error names the address and the command that starts a service."""
    done = hansang("classify", photos, "--address", "127.0.0.1:1")
    assert 1 == done.returncode
    assert "127.0.0.1:1; start one with: hansang serve" in done.stderr
    assert "Traceback" not in done.stderr


def test_rollback_serves_the_version_before(publish, tmp_path):
    """Its result is on stdout, as a line or as JSON; without a version before it fails."""
    for _ in range(3):
        publish("food")
    repository = ("--repository", tmp_path / "models")
    assert "food: version 2 serves now\n" == hansang("rollback", "food", *repository).stdout
    done = hansang("rollback", "food", *repository, "--json")
    assert {"model": "food", "version": 1, "versions": [1, 2, 3]} == json.loads(done.stdout)
    done = hansang("rollback", "food", *repository)
    assert (1, "") == (done.returncode, done.stdout)
    assert "error: model 'food' has no version before 1" in done.stderr


def test_serve_says_when_it_is_ready_and_drains(publish, tmp_path):
    """One line names model, version, device and address; SIGTERM ends it with 0.

    It never imports torch or Prefect.
    """
    publish("food")
    command = [
        *(sys.executable, "-X", "importtime", "-m", "hansang", "serve", "--host", "127.0.0.1"),
        *("--port", "0", "--metrics-port", "0", "--device", "cpu"),
        *("--repository", str(tmp_path / "models")),
    ]
    with subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True) as server:
        lines = []
        for line in server.stderr:
            lines.append(line)
            if line.startswith("serving "):
                server.send_signal(signal.SIGTERM)
    assert 0 == server.returncode, "".join(lines)
    (ready,) = [line for line in lines if line.startswith("serving ")]
    assert re.fullmatch(
        r"serving food version 1 on CPUExecutionProvider at 127\.0\.0\.1:[1-9]\d+\n", ready
    )
    imported = {line.split("|")[-1].strip().split(".")[0] for line in lines if "|" in line}
    assert "onnxruntime" in imported
    assert not {"torch", "torchvision", "onnx", "prefect", "training", "flows"} & imported


def test_serve_without_a_model_says_how_to_publish_one(tmp_path):
    """An empty repository is an error with the next command, and exit code 1."""
    done = hansang(
        *("serve", "--repository", tmp_path, "--port", 0, "--metrics-port", 0, "--device", "cpu")
    )
    assert 1 == done.returncode
    assert "hansang release" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [("serve", "--device", "tpu"), ("serve", "--port", "70000"), ("classify",), ("rollback",)],
)
def test_wrong_use_is_exit_code_2(arguments):
    """What the command line itself can tell to be wrong, it tells as such."""
    assert 2 == hansang(*arguments).returncode


def test_help_has_an_example_and_the_servers_own_defaults():
    """Each verb shows how it is used; `serve` has no default that ServerConfig has not."""
    from service import classify_cli, cli
    from service.config import ServerConfig

    for verb in (cli.serve, cli.token, cli.rollback, classify_cli.classify):
        assert "Example: hansang" in verb.__doc__
    config = ServerConfig()
    parameters = inspect.signature(cli.serve).parameters
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    assert defaults.keys() <= {field.name for field in fields(ServerConfig)}
    assert {name: getattr(config, name) for name in defaults} == defaults
