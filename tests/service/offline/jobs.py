"""Offline jobs as processes of their own, and what they must have answered."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

from tests.paths import ROOT

LOOPS = 40_000
"""A part takes long enough to be killed in."""


def begin(*arguments: object, **environment: str) -> subprocess.Popen:
    """Start `hansang classify` in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "hansang", "classify", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "HANSANG_PROGRESS_S": "0.1", **environment},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def end(process: subprocess.Popen, code: int = 0) -> tuple[str, str]:
    """Wait for it; return what it said."""
    out, err = process.communicate(timeout=280)
    assert code == process.returncode, err
    return out, err


def answers(out: Path) -> list[dict]:
    """Return every line of every part, in order."""
    files = sorted((out / "answers").iterdir())
    return [json.loads(line) for file in files for line in file.read_text("utf-8").splitlines()]


def require_one_answer_each(out: Path, photos: Path) -> None:
    """Fail unless every photo has one answer, and the right one."""
    found = answers(out)
    wanted = {str(path) for path in photos.rglob("*") if path.name[:2].isdigit()}
    assert dict.fromkeys(wanted, 1) == Counter(line["photo"] for line in found)
    for line in found:
        assert line["error"] is None
        assert line["classes"][0]["label"] == Path(line["photo"]).stem[3:]
