"""`hansang train --within`: a run that is chosen for a time, and what is refused."""

import json
import os
import subprocess
import sys
import time

import pytest

from tests.paths import ROOT


@pytest.fixture
def train(dishes, tmp_path):
    """`train("--within", "30s")` trains on the drawn dishes in an empty folder."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "hansang", "train", str(dishes), *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )

    return run


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--within", "soon"), "'soon' is no duration: write hours, minutes and seconds"),
        (("--within", "30m", "--extend"), "--within begins a run, and --extend goes on with one"),
        (("--within", "30m", "--nproc", "2"), "leave out --nproc"),
    ],
)
def test_what_cannot_be_meant_is_refused_at_once(train, tmp_path, arguments, sentence):
    """One line, before anything is read or measured."""
    refused = train(*arguments)

    assert 1 == refused.returncode
    assert refused.stderr.startswith("error: ")
    assert sentence in refused.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.long
def test_a_run_keeps_to_its_time_and_to_what_was_chosen(train, tmp_path):
    """It ends in time; the same command goes on with its settings, and does not choose again.

    A time in which no epoch fits is refused, with the time that one takes.
    """
    command = ("--within", "40s", "--image-size", "32", "--threads", "1", "--run", "first")
    started_s = time.monotonic()
    done = train(*command)
    took_s = time.monotonic() - started_s

    assert 0 == done.returncode, done.stderr
    # A tenth more, and as long again for a machine that others use.
    assert took_s < 40 * 1.1 + 40
    config = json.loads((tmp_path / "runs/first/config.json").read_text())["config"]
    assert (32, 1) == (config["image_size"], config["threads"])
    assert f"within 40s: {config['epochs']} epochs at 32 px" in done.stderr
    assert config["epochs"] > 5

    again = train(*command)
    assert 0 == again.returncode, again.stderr
    assert "measuring" not in again.stderr
    assert config == json.loads((tmp_path / "runs/first/config.json").read_text())["config"]

    refused = train("--within", "1s", "--run", "second")
    assert 1 == refused.returncode
    assert "--within is too short" in refused.stderr
    assert "one epoch at 64 px take" in refused.stderr
