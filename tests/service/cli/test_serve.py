"""The verbs serve, rollback and token, and what every verb's help says."""

import json
import re
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from tests.service.cli.commands import ENVIRONMENT, hansang


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

    It never imports torch or Prefect, nor what only buckets and traces need.
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
    assert not {"s3fs", "botocore", "aiohttp", "opentelemetry"} & imported


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


def test_help_has_an_example():
    """Each verb shows how it is used."""
    from service.cli import classify, serve

    for verb in (serve.serve, serve.token, serve.rollback, classify.classify):
        assert "Example: hansang" in verb.__doc__


def test_flags_are_settings():
    """Without flags the settings are the defaults; a flag of each kind sets what it names."""
    import typer
    from typer.testing import CliRunner

    from service.cli.serve_options import with_server_options
    from service.config import ServerConfig

    app, given = typer.Typer(add_completion=False), {}

    @app.command()
    @with_server_options
    def verb(**settings) -> None:
        given.update(settings)

    def config(*flags: str) -> ServerConfig:
        done = CliRunner().invoke(app, flags)
        assert 0 == done.exit_code, done.output
        return ServerConfig(**given)

    assert ServerConfig() == config()
    changed = config(
        *(
            "--repository",
            "s3://bucket",
            "--wait-for-model",
            "--port",
            "9",
            "--max-delay-ms",
            "1.5",
        ),
        *("--cors-origin", "https://a.example", "--cors-origin", "*", "--device", "cpu"),
        *("--tls-certificate", "c.pem", "--tls-key", "k.pem", "--drain-delay", "3"),
    )
    wanted = ServerConfig(
        repository=Path("s3://bucket"), wait_for_model=True, port=9, max_delay_ms=1.5,
        cors_origin=["https://a.example", "*"], device="cpu", tls_certificate=Path("c.pem"),
        tls_key=Path("k.pem"), drain_delay_s=3.0,
    )  # fmt: skip
    assert wanted == changed


def test_every_setting_says_what_it_is():
    """Each flag has a line of help, and its default keeps its own range and choices."""
    from service.config import ServerConfig, Setting

    for field in fields(ServerConfig):
        setting = Setting.of(field)
        assert setting.help or setting.flag is None, field.name
        assert (setting.low is None) == (setting.high is None), field.name
        assert not setting.choices or field.default in setting.choices, field.name
