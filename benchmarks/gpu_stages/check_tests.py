"""The tests marked `gpu`, as one step of benchmarks/gpu.py: each passes, and none skips."""

import os
import re
import subprocess
import sys
from pathlib import Path

from benchmarks.gpu_stages.steps import Found, Step, rows
from benchmarks.rig import ROOT

_SHOWN = 5000
"""Characters of pytest's output in a failure."""


def steps(device: str, work: Path) -> dict[str, Step]:
    """Return the step by name."""
    return {"marked_tests": lambda: marked_tests(device)}


def marked_files() -> list[str]:
    """Return the files that have tests marked `gpu`: others may need what is not there."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    marked = [path for path in files if "pytest.mark.gpu" in path.read_text("utf-8")]
    return [path.relative_to(ROOT).as_posix() for path in marked]


def command(*flags: str) -> list[str]:
    """Return the command of the marked tests, with no plugin but those that they need.

    Others that are installed may want what a rehearsal hides, or more than there is. The
    environment must have PYTEST_DISABLE_PLUGIN_AUTOLOAD.
    """
    plugins = ("-p", "pytest_asyncio.plugin", "-p", "pytest_timeout")
    return [sys.executable, "-m", "pytest", "-m", "gpu", *plugins, *flags, *marked_files()]


def marked_tests(device: str) -> Found:
    """Run them; a test is told when it ends, so that some count even if the step is cut off."""
    table, said = rows(), []
    process = subprocess.Popen(
        command("-vv", "-rs", "--timeout=100"), cwd=ROOT, text=True,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        said.append(line)
        if ended := re.match(r"(\S+::.+?) (PASSED|FAILED|ERROR|SKIPPED)", line):
            table.append({"test": ended[1].rpartition("/")[2], "outcome": ended[2]})
    code = process.wait()
    text = "".join(said)[-_SHOWN:]
    outcomes = {row["outcome"] for row in table}
    # Without a GPU all of them skip, and pytest says so with 0.
    wanted = {"PASSED"} if device == "cuda" else {"PASSED", "SKIPPED"}
    assert code == 0 and outcomes and outcomes <= wanted, f"exit code {code}: {text}"
    return {"files": marked_files(), "rows": table}
