"""Folders, files and tables that people brought, made by the script beside the project."""

import importlib.util
from pathlib import Path

import pytest

from tests.paths import ROOT

SCRIPT = ROOT.parent / "shared" / "cases" / "photos.py"


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """`case("A3")` makes the folders of a case, once, and gives where they lie."""
    if not SCRIPT.is_file():
        pytest.skip("no shared/cases beside the project")
    spec = importlib.util.spec_from_file_location("cases", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    root = tmp_path_factory.mktemp("cases")

    def make(name: str) -> Path:
        if not (root / name).exists():
            (root / name).mkdir()
            module.N[0] = 0
            module.CASES[name](root / name)
        return root / name

    make.ids = tuple(module.CASES)
    return make
