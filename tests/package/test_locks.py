"""Every lock has what its .in file asks for, pinned and hashed, and one version of each package."""

import re

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.paths import ROOT

FOLDER = ROOT / "requirements"
LOCKS = sorted(path.stem for path in FOLDER.glob("*.txt"))
TOOLS = {"deploy", "bench", "bench-bentoml", "bench-mlserver", "mlflow-server"}
"""Locks of environments of their own."""


def asked(name: str) -> list[Requirement]:
    """Return what an .in file asks for, with the files that it includes."""
    found = []
    for line in (FOLDER / f"{name}.in").read_text().splitlines():
        line = line.partition("#")[0].strip()
        if included := re.fullmatch(r"-r (\S+)\.(in|txt)", line):
            found += asked(included[1])
        elif line and not line.startswith("-"):
            found.append(Requirement(line))
    return found


def locked(name: str) -> dict[str, set[Version]]:
    """Return the packages of a lock: a package may have a version for each platform."""
    found: dict[str, set[Version]] = {}
    for package, version in re.findall(
        r"^([\w.-]+)==([^\s;\\]+)", (FOLDER / f"{name}.txt").read_text(), re.M
    ):
        found.setdefault(canonical(package), set()).add(Version(version))
    return found


def canonical(name: str) -> str:
    """Return a package's name as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_has_what_is_asked_for(name: str) -> None:
    """Whoever edits an .in file runs `make lock` as well."""
    packages = locked(name)
    assert packages
    for wanted in asked(name):
        versions = packages.get(canonical(wanted.name), set())
        assert any(wanted.specifier.contains(version, prereleases=True) for version in versions), (
            f"{name}.txt has {wanted.name} {versions or 'not at all'}, not {wanted}"
        )


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_is_hashed(name: str) -> None:
    """`pip --require-hashes` takes the file as it is."""
    entries = re.split(r"\n(?=[\w])", (FOLDER / f"{name}.txt").read_text())
    packages = [entry for entry in entries if re.match(r"[\w.-]+==", entry)]
    assert packages
    assert [] == [entry.splitlines()[0] for entry in packages if "--hash=sha256:" not in entry]


def test_the_product_has_one_version_of_each_package() -> None:
    """What was tested is what the images install."""
    versions: dict[str, dict[str, set[Version]]] = {}
    for name in set(LOCKS) - TOOLS:
        for package, found in locked(name).items():
            versions.setdefault(package, {})[name] = found
    tested = locked("dev")
    differing = {
        package: by_lock
        for package, by_lock in versions.items()
        if any(package in tested and not found <= tested[package] for found in by_lock.values())
    }
    assert {} == differing


def test_in_files_and_locks_come_in_pairs() -> None:
    """A lock that nothing makes is stale."""
    made = {path.stem for path in FOLDER.glob("*.in")} - {"serve-common"}
    assert made == set(LOCKS)


def test_what_serves_has_no_package_that_phones_home() -> None:
    """OpenVINO's own packages bring openvino-telemetry; the plugin for onnxruntime does not."""
    for name in ("serve", "serve-cpu", "serve-openvino", "otel"):
        named = {each for each in locked(name) if "telemetry" in each or "analytics" in each}
        assert {each for each in named if not each.startswith("opentelemetry-")} == set(), name
