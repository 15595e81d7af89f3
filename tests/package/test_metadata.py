"""What `pip` reads of the package: its version, and extras whose ranges the locks keep."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import service

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
LOCKS = {
    "serve": "serve-cpu", "serve-gpu": "serve", "serving": "serve", "train": "train", "s3": "serve",
    "traces": "otel", "dask": "dask", "ray": "ray", "mlflow": "mlflow",
    "heif": "heif", "openvino": "serve-openvino",
}  # fmt: skip
"""Extra → the lock that `make setup` or an image installs for the same use."""


def locked(role: str) -> list[tuple[str, str, str]]:
    """Return name, version and marker of every package in a lock."""
    text = (ROOT / "requirements" / f"{role}.txt").read_text()
    return re.findall(r"^([a-z0-9._-]+)==(\S+) (?:; (.*) )?\\$", text, re.MULTILINE)


def own(requirements: list[str]) -> list[Requirement]:
    """Return what is asked for by name, without the extras of this very package."""
    read = [Requirement(each) for each in requirements]
    return [each for each in read if each.name != "hansang"]


@pytest.mark.parametrize("extra", [*LOCKS, ""])
def test_locks_satisfy_the_ranges(extra):
    """Each version that is tested and shipped is one that `pip install hansang[extra]` may take."""
    lock = locked(LOCKS.get(extra, "serve"))
    for requirement in own(EXTRAS[extra] if extra else PROJECT["dependencies"]):
        versions = [v for name, v, _ in lock if name == canonicalize_name(requirement.name)]

        assert versions, f"{requirement.name} is in no {LOCKS.get(extra, 'serve')}.txt"
        assert all(v in requirement.specifier for v in versions), (str(requirement), versions)


@pytest.mark.parametrize("role", ["serve-common", "train"])
def test_an_extra_has_all_that_its_lock_was_made_from(role):
    """What is added to requirements/*.in is added to the package as well."""
    lines = (ROOT / "requirements" / f"{role}.in").read_text().splitlines()
    wanted = {Requirement(line).name for line in lines if line[:1] not in ("", "#", "-")}
    given = PROJECT["dependencies"] + [each for extra in EXTRAS.values() for each in extra]

    assert wanted <= {each.name for each in own(given)}


def test_every_extra_is_checked_against_a_lock():
    """A new extra needs a lock, or a place in `all` alone."""
    assert set(EXTRAS) - set(LOCKS) == {"all"}


def test_the_changelog_and_the_images_name_the_version():
    """One version is told everywhere; a tag on this commit is the same."""
    version = service.__version__
    changelog = (ROOT / "CHANGELOG.md").read_text()
    tags = subprocess.run(
        ["git", "tag", "--points-at", "HEAD", "v*"], cwd=ROOT, capture_output=True, text=True
    ).stdout.split()

    assert re.search(rf"^## {re.escape(version)}\b", changelog, re.MULTILINE)
    assert f"ARG VERSION={version}\n" in (ROOT / "Dockerfile").read_text()
    assert tags in ([], [f"v{version}"])


def test_the_license_goes_wherever_the_code_goes():
    """The package names its license files, the fonts' among them, and images carry them."""
    files = PROJECT["license-files"]
    assert {"LICENSE", "NOTICE", "training/pages/typefaces/OFL.txt"} == set(files)
    assert all((ROOT / file).is_file() for file in files)

    ignored = (ROOT / ".dockerignore").read_text()
    dockerfile = (ROOT / "Dockerfile").read_text()
    (copied,) = re.findall(r"^COPY .*hansang\.py.*$", dockerfile, re.MULTILINE)
    for name in ("LICENSE", "NOTICE"):
        assert f"!{name}\n" in ignored
        assert f" {name} " in copied
    # Each of the three images takes the code from there, and no part of it by another way.
    assert 3 == dockerfile.count("\nCOPY --from=code /app /app\n")
