"""Third-party notices: each package of a bill of materials has a line, and its licence's text."""

import json
import subprocess
import sys
from importlib.metadata import version

from tests.paths import ROOT


def test_each_package_has_its_licence(tmp_path):
    """Installed ones with name and text; another version, or none, is told as not known here."""
    bom = {"components": [
        {"name": "numpy", "version": version("numpy")},
        {"name": "typer", "version": version("typer")},
        {"name": "rich", "version": "0.0.1"},
        {"name": "no-such-package", "version": "1"},
    ]}  # fmt: skip
    (tmp_path / "bom.json").write_text(json.dumps(bom))
    ran = subprocess.run(
        [sys.executable, ROOT / "deploy" / "notices.py", tmp_path / "bom.json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    rows = [line for line in ran.stdout.splitlines() if line.startswith("| ")][2:]
    assert ["no-such-package", "numpy", "rich", "typer"] == [row.split()[1] for row in rows]
    assert rows[0].endswith("| not installed here |")
    assert "BSD" in rows[1]
    assert rows[2].endswith("| not installed here |")
    assert rows[3].endswith("| MIT |")
    assert f"## numpy {version('numpy')}: LICENSE" in ran.stdout
    assert "Redistribution and use in source and binary forms" in ran.stdout
