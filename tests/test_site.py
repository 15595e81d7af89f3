"""The documentation as a site: every link leads somewhere, and no page asks another host."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT

pytest.importorskip("material", reason="mkdocs-material is in requirements/dev.txt")


def build(config: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """Build the site as `make docs` does."""
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "-f", config, "-d", out],
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True,
    )  # fmt: skip


def test_the_site_builds_and_asks_no_other_host(tmp_path: Path) -> None:
    """Nothing that a page loads lies elsewhere; each page of docs/ is there."""
    built = build(ROOT / "mkdocs.yml", tmp_path / "site")
    assert 0 == built.returncode, built.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > len(list((ROOT / "docs").rglob("*.md"))) - 1
    loads = re.compile(r"""(?:src=|<link[^>]+href=|@import |url\()["']?(?:https?:)?//[^"' )>]+""")
    for page in [*pages, *(tmp_path / "site").rglob("*.css")]:
        assert [] == loads.findall(page.read_text("utf-8")), page


def test_a_link_that_leads_nowhere_stops_the_build(tmp_path: Path) -> None:
    """A page that is gone and a heading that is not there are both found."""
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    index = tmp_path / "docs" / "README.md"
    for wrong in ("[x](guides/gone.md)", "[x](guides/serving.md#no-such-heading)", "[x](../gone)"):
        index.write_text((ROOT / "docs" / "README.md").read_text("utf-8") + f"\n{wrong}\n")
        assert 0 != build(tmp_path / "mkdocs.yml", tmp_path / "site").returncode, wrong
