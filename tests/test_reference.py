"""The documentation says what the code does: its reference is made from it, and its links hold."""

import dataclasses
import re
import runpy
import subprocess
from pathlib import Path

import pytest

from service.config import ServerConfig
from service.models.model import Model
from service.observability.metrics import REJECTIONS
from tests.commands import script
from tests.thin import thin_network

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
MADE = runpy.run_path(str(ROOT / "docs" / "generate.py"))


@pytest.mark.parametrize(
    "page", [page for page in PAGES if "<!-- generated" in page.read_text("utf-8")], ids=str
)
def test_tables_are_what_the_code_says(page: Path) -> None:
    """A flag, a setting, a metric or a docstring that changed is changed there by the command."""
    text = page.read_text("utf-8")
    assert MADE["filled"](text) == text, f"{page.name} has drifted: run make docs-reference"


def test_every_generated_block_is_shown() -> None:
    """What the script can make stands on some page."""
    shown = "".join(page.read_text("utf-8") for page in PAGES)
    assert set(MADE["BLOCKS"]) == set(re.findall(r"<!-- generated: (\w+) -->", shown))


def test_every_setting_of_a_server_has_a_flag() -> None:
    """What a ServerConfig holds can be said on the command line; how often it polls is ours."""
    flags = {option.name for option in MADE["command"]("serve").params}
    fields = {field.name for field in dataclasses.fields(ServerConfig)}
    assert fields - flags == {"poll_interval_s"}


def test_every_reason_of_a_refusal_is_explained() -> None:
    """Each reason of a rejected image has its line, and no other has one."""
    section = (REFERENCE / "metrics.md").read_text("utf-8").split("\n## Reasons")[1]
    assert set(REJECTIONS) == set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))


def test_every_variable_of_the_environment_is_explained() -> None:
    """A variable that code or deployment reads stands on the page of the command line."""
    sources = [
        *ROOT.glob("*.py"), ROOT / "prefect.yaml", ROOT / "compose.yaml",
        *(path for room in ("training", "service", "flows", "benchmarks")
          for path in (ROOT / room).rglob("*.py")),
    ]  # fmt: skip
    read = {name for path in sources for name in re.findall(r"HANSANG_[A-Z_]+", path.read_text())}
    explained = set(re.findall(r"HANSANG_[A-Z_]+", (REFERENCE / "cli.md").read_text("utf-8")))
    assert read == explained


def test_the_notebook_of_the_python_api_runs(tmp_path: Path) -> None:
    """Its lines load photos, train, evaluate, export and classify, in an empty folder.

    What its model file says of itself stands in the model contract.
    """
    page = (REFERENCE / "python-api.md").read_text("utf-8")
    code = re.search(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert code
    (tmp_path / "notebook.py").write_text(code[1], "utf-8")
    with thin_network():
        printed = script(tmp_path / "notebook.py", cwd=tmp_path)
    assert "of the validation photos" in printed
    properties = Model(tmp_path / "model.onnx").properties
    contract = (REFERENCE / "model-contract.md").read_text("utf-8")
    assert set(properties) <= set(re.findall(r"`(\w+)`", contract))


def slugs(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """A file or a heading that a page links to exists."""
    for file, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", page.read_text("utf-8")):
        if file.startswith("http"):
            continue
        target = page.parent / file if file else page
        assert target.exists(), file
        assert not anchor or anchor in slugs(target), f"{file}#{anchor}"


def test_paths_that_pages_name_exist() -> None:
    """Code that a page names by its path lies there."""
    named = re.compile(
        r"`((?:training|service|flows|docs|tests|benchmarks|deploy|examples)/[\w./-]+)`"
    )
    for page in PAGES:
        for path in named.findall(page.read_text("utf-8")):
            assert (ROOT / path).exists(), f"{page.relative_to(ROOT)} names {path}"


def test_paths_of_pages_that_code_names_exist() -> None:
    """A comment or an error that sends a reader to a page names one that is there."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout
    names = [
        name
        for name in listed.split()
        if name.endswith((".py", ".yml", ".yaml", ".json", ".proto"))
    ]
    for name in [*names, "Makefile", "Dockerfile"]:
        for page in re.findall(r"docs/[\w/-]+\.md", (ROOT / name).read_text("utf-8")):
            assert (ROOT / page).exists(), f"{name} names {page}"
