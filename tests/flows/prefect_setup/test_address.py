"""Which Prefect server is written to is said before anything is, and what is named in vain."""

import os
import socket
import subprocess
import sys

import pytest
from prefect.context import use_profile
from prefect.settings import PREFECT_API_URL, Profile

from flows.local.demo import free_port
from flows.prefect_setup import address
from tests.paths import ROOT

OFFICE = "http://10.0.0.9:4200/api"
HERE = "http://user:secret@127.0.0.1:4200/api"


@pytest.fixture
def said(monkeypatch, tmp_path):
    """Give `said(environment, profile)`: the line where each names an address, or none."""
    monkeypatch.chdir(tmp_path)

    def read(of_environment: str | None, of_profile: str | None, **flags: bool) -> str:
        monkeypatch.delenv("PREFECT_API_URL", raising=False)
        if of_environment:
            monkeypatch.setenv("PREFECT_API_URL", of_environment)
        named = {PREFECT_API_URL: of_profile} if of_profile else {}
        profile = Profile(name="office", settings=named)
        with use_profile(profile, include_current_context=False):
            return address.said(**flags)

    return read


def test_the_address_is_said_with_who_named_it(said, tmp_path):
    """Environment, a file of settings, profile, or nothing at all; never a password."""
    assert "Prefect: http://127.0.0.1:4200/api (by PREFECT_API_URL)" == said(HERE, None)
    assert f"Prefect: {OFFICE} (by Prefect's profile 'office')" == said(None, OFFICE)
    assert "Prefect: http://127.0.0.1:4200/api (started here)" == said(
        HERE, None, started_here=True
    )
    assert said(None, None).startswith("Prefect: an embedded server, with its records in ")
    (tmp_path / ".env").write_text(f"PREFECT_API_URL={OFFICE}\n")
    assert f"Prefect: {OFFICE} (by a file of Prefect's settings in this folder)" == said(None, None)


def test_an_address_that_is_not_used_is_named(said):
    """Environment and profile differ: the line has both; where they agree it has one."""
    line = said(HERE, OFFICE)
    assert line.startswith("Prefect: http://127.0.0.1:4200/api (by PREFECT_API_URL); ")
    assert line.endswith(f"its profile 'office' names {OFFICE}, which is not used")
    assert "not used" not in said(OFFICE, OFFICE)


def hansang(tmp_path, *arguments: str, **settings: str) -> subprocess.CompletedProcess:
    """Run a verb with a profile that names another server."""
    (tmp_path / "profiles.toml").write_text(
        f'active = "office"\n[profiles.office]\nPREFECT_API_URL = "{OFFICE}"\n'
    )
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    return subprocess.run(
        [sys.executable, "-m", "hansang", *arguments],
        env={**inherited, "PREFECT_HOME": str(tmp_path), "PYTHONPATH": str(ROOT), **settings},
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_deploy_says_it_before_it_writes(tmp_path):
    """The first line, though nobody answers there."""
    url = f"http://127.0.0.1:{free_port()}/api"
    done = hansang(tmp_path, "deploy", "--gpus", "0", PREFECT_API_URL=url)
    assert 1 == done.returncode
    first, *_, last = done.stderr.splitlines()
    assert f"Prefect: {url} (by PREFECT_API_URL); its profile 'office' names {OFFICE}" in first
    assert f"error: no Prefect server answers at {url}" in last


def test_up_never_deploys_to_a_server_that_has_its_port(tmp_path):
    """Another Prefect on 4200 would answer in the place of the one that is started."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = hansang(tmp_path, "up", "--gpus", "0", "--server-port", str(port),
                       "--logs", str(tmp_path / "logs"))  # fmt: skip
    assert 1 == done.returncode
    assert f"error: port {port} for Prefect's server: Address already in use" in done.stderr
    assert f"PREFECT_API_URL=http://127.0.0.1:{port}/api" in done.stderr
