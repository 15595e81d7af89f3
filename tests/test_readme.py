"""What pages tell people to type exists, and the README's walk runs as it stands."""

import importlib.util
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

import hansang
from flows.local.demo import free_port
from tests.paths import ROOT

README = (ROOT / "README.md").read_text("utf-8")
PAGES = {
    str(page.relative_to(ROOT)): page.read_text("utf-8")
    for page in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
}


def blocks(page: str, language: str) -> str:
    """Return the code of one language on a page."""
    return "".join(re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL))


def commands(code: str) -> list[list[str]]:
    """Return every `hansang` command in lines of shell, as words without `hansang`."""
    found = []
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line.partition(" | ")[0].partition(" >")[0].strip(" &"), comments=True)
        if "hansang" in words and words[-1] != "hansang" and "clone" not in words:
            found.append(words[words.index("hansang") + 1 :])
    return found


@pytest.mark.parametrize("name", [name for name, page in PAGES.items() if "hansang" in page])
def test_commands_of_pages_exist(name: str) -> None:
    """Each `hansang` command of a page's blocks parses; of those in its text the options exist."""
    group = get_command(hansang.app)
    for words in commands(blocks(PAGES[name], "(?:ba)?sh")):
        verb = group.get_command(None, words[0])
        assert verb, words
        verb.make_context(words[0], words[1:])
    for span in re.findall(r"`(hansang [a-z][^`]+)`", PAGES[name]):
        for words in commands(span.replace("…", "").replace("|", " ")):
            verb = group.get_command(None, words[0])
            assert verb, words
            options = {opt for each in verb.params for opt in (*each.opts, *each.secondary_opts)}
            asked = {word.partition("=")[0] for word in words if word.startswith("--")}
            assert asked <= options, (span, asked - options)


def test_programs_of_pages_exist() -> None:
    """What a page runs by `python -m`, or as a file, can be run."""
    for name, page in PAGES.items():
        for module in re.findall(
            r"python3? -m ((?:training|service|flows|benchmarks)[\w.]*)", page
        ):
            assert importlib.util.find_spec(module.rstrip(".")), f"{name} names {module}"
        for file in re.findall(r"(?:python3?|node) ((?:benchmarks|examples)/[\w/]+\.\w+)", page):
            assert (ROOT / file).is_file(), f"{name} names {file}"


def test_make_targets_of_pages_exist() -> None:
    """A target that a page tells people to type stands in the Makefile."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for name, page in PAGES.items():
        asked = re.findall(r"`make ([a-z-]+)", page)
        asked += re.findall(r"^make ([a-z-]+)", blocks(page, "(?:ba)?sh"), re.MULTILINE)
        assert set(asked) <= targets, name


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_walk_through_runs(tmp_path: Path) -> None:
    """Every `bash` block and the `python` block run in order, as a reader would run them."""
    port = free_port()
    shell = "set -e\ntrap 'kill $(jobs -p)' EXIT\n" + blocks(README, "bash")
    (tmp_path / "call.py").write_text(blocks(README, "python").replace("8500", str(port)))
    script = shell.replace("8500", str(port)).replace(
        "hansang serve", "hansang serve --http-port 0 --metrics-port 0"
    )
    # A reader sees the service come up before typing on; it listens before it serves.
    ask = f"from service.client import Classifier; Classifier('localhost:{port}').model()"
    waiting = f'until {sys.executable} -c "{ask}" 2>/dev/null; do sleep 0.2; done\n'
    script = script.replace("&\n", f"&\n{waiting}") + f"{sys.executable} call.py\n"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    walk = subprocess.Popen(
        ["bash", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "PREFECT_HOME": str(tmp_path / "prefect")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = walk.communicate(timeout=800)
    finally:
        if walk.poll() is None:
            os.killpg(walk.pid, signal.SIGKILL)

    assert 0 == walk.returncode, output[-4000:]
    assert 5 == len([line for line in output.splitlines() if line.startswith("[(")][:5])


def test_the_makefile_names_only_tests_that_exist() -> None:
    """A test that was moved is moved in the lists of `make test-serve` and the like, too."""
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    listed = [
        prefix + name
        for prefix, names in re.findall(r"\$\(addprefix (tests/[^,]*), ([^)]*)\)", makefile)
        for name in names.split()
    ]
    named = re.findall(r"(?<![\w/])tests/[\w/.]+", makefile.replace("$(addprefix tests/", ""))

    assert len(listed) > 10
    assert len(named) > 3
    assert [] == [name for name in [*listed, *named] if not (ROOT / name).exists()]
