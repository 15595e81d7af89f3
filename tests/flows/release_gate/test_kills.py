"""A release or a rollback that is killed at any line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from service.models.repository import ModelRepository
from tests.paths import ROOT
from tests.service import tiny_onnx

EVERY = "1" if os.environ.get("HANSANG_TEST_PREFECT") else "16"
"""Lines from one kill to the next: each is tried by make test-prefect, every 16th always."""

# Forks a child per line of the code that decides, publishes and writes down; kills it before it.
KILLER = """
import dataclasses, json, os, shutil, signal, sys
from pathlib import Path
import storage
from flows.release_gate import publish
from flows.release_gate.candidate import Candidate
from service import files
from service.models import history, repository
home, what = Path(sys.argv[1]), sys.argv[2]
candidate = Candidate(**json.loads((home / "candidate.json").read_text()))
watched = {m.__file__ for m in (publish, files, history, repository, storage)}
number = 0
while True:
    root = home / f"{what}-{number}"
    shutil.copytree(home / "models", root)
    child = os.fork()
    if not child:
        left = number
        def trace(frame, event, arg):
            global left
            if frame.f_code.co_filename not in watched:
                return None
            if event == "line":
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1
            return trace
        sys.settrace(trace)
        if what == "publish":
            publish.decide(candidate, repository=root)
        else:
            repository.ModelRepository(root).rollback("food42", reason="it was bad")
        os._exit(0)
    killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    print(json.dumps([str(root), killed]), flush=True)
    if not killed:
        break
    number += int(sys.argv[3])
"""


@pytest.mark.parametrize(("what", "old", "new"), [("publish", 2, 3), ("rollback", 2, 1)])
def test_killed_at_any_line_one_whole_version_serves_and_the_history_is_true(
    tmp_path, what, old, new
):
    """The old version serves or the new one; the history tells of exactly what happened."""
    for _ in range(2):
        onnx = tiny_onnx.build(tmp_path / "x.onnx")
        ModelRepository(tmp_path / "models").publish("food42", onnx)
    known = {
        "model": "food42", "run_dir": "runs/x", "onnx": str(tmp_path / "x.onnx"), "champion": 2,
        "weighing": "tonight", "sha256": "", "checkpoint": "", "asked": "fp32",
        "promote": True, "reason": "better", "epoch": 1, "val_top1": 1.0, "photos_checked": 1,
        "max_difference": 0.0, "split": "val", "left_out": {}, "dataset_hash": "", "speed_ms":
        [[1.0, 1.0], None], "smoke_photos": 1, "image_sizes": [8, 8], "verdict": dict.fromkeys(
            ("photos", "challenger_top1", "champion_top1", "gained", "lost", "p_value")),
    }  # fmt: skip
    (tmp_path / "candidate.json").write_text(json.dumps(known))

    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(tmp_path), what, EVERY],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, capture_output=True, text=True,
    )  # fmt: skip

    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(outcomes) > 40 // int(EVERY), done.stdout
    seen = set()
    for root, _ in outcomes:
        store = ModelRepository(Path(root))
        serving = store.serving("food42")
        store.verify("food42", serving)
        seen.add(serving)
        event = {"publish": "released", "rollback": "rolled back"}[what]
        last = store.history("food42")[-1]
        if serving == new:
            assert (event, new, old) == (last["event"], last["version"], last["replaced"]), root
        else:
            assert ("released", old) == (last["event"], last["version"]), root
    assert {old, new} == seen
    # Each child was killed at its line, but the last, which came to its end.
    assert [True] * (len(outcomes) - 1) + [False] == [killed for _, killed in outcomes]
    # Whoever comes next finds nothing in the way.
    store = ModelRepository(Path(outcomes[len(outcomes) // 2][0]))
    assert store.serving("food42") < store.publish("food42", tmp_path / "x.onnx")
