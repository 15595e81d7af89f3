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

from tests.paths import ROOT

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
    from service.cli.classify import _read

    here, gone = photos / "[red] one.jpg", photos / "gone.jpg"
    unread, image = _read([gone, here])
    assert here.read_bytes() == image
    assert "cannot be read: No such file" in unread.error


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
async def test_results_go_into_a_file_photo_by_photo(classify, photos, tmp_path, kind):
    """CSV or JSON lines; a second run asks only for what is new, and mends a torn line."""
    out = tmp_path / f"results.{kind}"
    done = await classify(photos, "--out", out, "--top-k", 2)
    assert (0, "2 of 2 photos are classified") == (done.returncode, done.stdout[:28]), done.stderr
    lines = out.read_text("utf-8").splitlines()
    if kind == "csv":
        assert "photo,model,model_version,label_1,probability_1,label_2,probability_2" == lines[0]
        assert re.fullmatch(r'"?.*\[red\] one\.jpg"?,food,1,red,0\.\d+,\w+,0\.\d+', lines[1])
    else:
        assert ["red", "blue"] == [json.loads(line)["classes"][0]["label"] for line in lines]

    whole = out.read_bytes()
    out.write_bytes(whole[:-7])
    (photos / "zz.jpg").write_bytes((photos / "[red] one.jpg").read_bytes())
    (photos / "[red] one.jpg").write_bytes(b"would fail, if it were asked again")
    done = await classify(photos, "--out", out, "--top-k", 2, "--json")
    assert 0 == done.returncode, done.stderr
    assert {"photos": 3, "classified": 3, "failed": 0, "out": str(out)} == json.loads(done.stdout)
    assert out.read_bytes().startswith(whole)
    assert len(lines) + 1 == len(out.read_text("utf-8").splitlines())


async def test_failed_photos_are_listed_and_tried_again(classify, photos, photo, tmp_path):
    """They are not in the results; the list has their reasons, and goes when they are mended."""
    out = tmp_path / "results.csv"
    bad = photos / "bad.jpg"
    bad.write_bytes(b"junk")
    done = await classify(photos, "--out", out)
    assert 1 == done.returncode
    assert "error: 1 of 3 photos" in done.stderr
    assert f"{bad}\tthis is not a JPEG, PNG or WebP image\n" == Path(f"{out}.failed").read_text()
    assert "bad.jpg" not in out.read_text()
    bad.write_bytes(photo("green"))
    done = await classify(photos, "--out", out)
    assert 0 == done.returncode
    assert "bad.jpg,food,1,green" in out.read_text()
    assert not Path(f"{out}.failed").exists()


async def test_a_kill_in_the_middle_costs_nothing(publish, serve, photo, tmp_path):
    """SIGKILL while hundreds are under way; the same command ends with each of them once."""
    publish("food", loops=2_000)
    server = await serve(max_batch=1)
    folder, out = tmp_path / "many", tmp_path / "results.jsonl"
    folder.mkdir()
    for number in range(400):
        (folder / f"{number:03}.jpg").write_bytes(photo(["red", "green", "blue"][number % 3]))
    command = [
        *(sys.executable, "-m", "hansang", "classify", str(folder), "--out", str(out)),
        *("--address", f"127.0.0.1:{server.port}", "--top-k", "1"),
    ]
    with subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE) as first:
        while not out.exists() or out.read_bytes().count(b"\n") < 20:
            await asyncio.sleep(0.01)
        first.kill()
    assert 20 <= out.read_bytes().count(b"\n") < 400
    done = await asyncio.to_thread(subprocess.run, command, env=ENVIRONMENT, capture_output=True)
    assert 0 == done.returncode, done.stderr
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [f"{number:03}.jpg" for number in range(400)] == [
        Path(each["photo"]).name for each in found
    ]
    assert ["red", "green", "blue"] == [each["classes"][0]["label"] for each in found[:3]]


@pytest.mark.parametrize(
    ("content", "out", "sentence"),
    [
        (None, "results.txt", "name it .csv or .jsonl"),
        ("photo,other\n", "results.csv", "other columns"),
        ("junk\n", "results.jsonl", "holds no results"),
    ],
)
async def test_a_file_that_cannot_be_gone_on_with_is_left_alone(
    classify, photos, tmp_path, content, out, sentence
):
    """Another format or other columns: an error that says so, and nothing is overwritten."""
    path = tmp_path / out
    if content is not None:
        path.write_text(content)
    done = await classify(photos, "--out", path)
    assert 1 == done.returncode
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert content == (path.read_text() if path.exists() else None)


def test_token_makes_an_entry_for_the_file(tmp_path):
    """The entry is on stdout, and holds a hash; the token itself is on stderr alone."""
    from service.api.auth import Tokens

    done = hansang("token", "kiosk", "--images-per-s", 50, "--admin")
    assert 0 == done.returncode
    (token,) = re.findall(r"token of kiosk: (\S+)\n", done.stderr)
    assert token not in done.stdout
    path = tmp_path / "tokens.toml"
    path.write_text(done.stdout)
    caller = Tokens(path).identify({"authorization": f"Bearer {token}"})
    assert ("kiosk", 50, True) == (caller.name, caller.images_per_s, caller.admin)
    assert 1 == hansang("token", "a b").returncode


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
        *("--port", "0", "--http-port", "0", "--metrics-port", "0", "--device", "cpu"),
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
        *(
            "serve",
            "--repository",
            tmp_path,
            "--port",
            0,
            "--http-port",
            0,
            "--metrics-port",
            0,
            "--device",
            "cpu",
        )
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
    from service.cli import classify, serve
    from service.config import ServerConfig

    for verb in (serve.serve, serve.token, serve.rollback, classify.classify):
        assert "Example: hansang" in verb.__doc__
    config = ServerConfig()
    parameters = inspect.signature(serve.serve).parameters
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    assert defaults.keys() <= {field.name for field in fields(ServerConfig)}
    assert {name: getattr(config, name) for name in defaults} == defaults
