"""A publisher that is killed at any moment, and several that publish at once."""

import json
import os
import subprocess
import sys
from pathlib import Path

from service.models.repository import ModelRepository
from tests.paths import ROOT

# Forks a publisher per file-system event and kills it with SIGKILL before that event.
KILLER = """
import json, os, shutil, signal, sys
from pathlib import Path
import service.models.model
from service.models.repository import ModelRepository

template, onnx, work = map(Path, sys.argv[1:])
EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.copyfile")
for point in range(1000):
    root = work / str(point)
    shutil.copytree(template, root)
    child = os.fork()
    if child == 0:
        seen = 0
        def watch(event, arguments):
            global seen
            if event in EVENTS and any(str(root) in str(a) for a in arguments):
                if seen == point:
                    os.kill(os.getpid(), signal.SIGKILL)
                seen += 1
        sys.addaudithook(watch)
        ModelRepository(root).publish("food", onnx, keep=2)
        os._exit(0)
    killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    print(json.dumps([str(root), killed]), flush=True)
    if not killed:
        break
"""


def start(script: str, *arguments: object) -> subprocess.Popen:
    """Start a Python of its own that finds this checkout."""
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "ORT_DISABLE_TELEMETRY": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_kill_at_any_moment_leaves_a_whole_version_serving(publish, store, tiny_onnx, tmp_path):
    """SIGKILL before each file-system event of a release: old or new serves, and none is half."""
    publish("food")
    publish("food")
    onnx = tiny_onnx(tmp_path / "new.onnx", labels=("a", "b", "c"))
    whole = {store.path("food", 1).read_bytes(), onnx.read_bytes()}
    (tmp_path / "killed").mkdir()
    with start(KILLER, store.root, onnx, tmp_path / "killed") as killer:
        outcomes = [json.loads(line) for line in killer.stdout]
    assert 0 == killer.returncode
    serving = []
    for root, _ in outcomes:
        after = ModelRepository(Path(root))
        serving.append(after.serving("food"))
        for version in after.versions("food"):
            path = after.path("food", version)
            assert path.read_bytes() in whole, root
            assert 3 == len(path.with_name("labels.txt").read_text("utf-8").splitlines()), root
        # The next release clears up and serves.
        version = after.publish("food", onnx, keep=2)
        assert version == after.serving("food") > serving[-1]
        assert 2 == len(after.versions("food"))
        assert not list((Path(root) / "food").glob(".tmp-*"))
    assert [killed for _, killed in outcomes] == [True] * (len(outcomes) - 1) + [False]
    assert len(outcomes) > 12
    assert sorted(serving) == serving
    assert {2, 3} == set(serving)


def test_publishers_wait_for_each_other(store, tiny_onnx, tmp_path):
    """Four processes that release at once get four numbers, and the last one serves."""
    onnx = tiny_onnx(tmp_path / "tiny.onnx")
    script = """
import sys
from pathlib import Path
from service.models.repository import ModelRepository
for _ in range(3):
    print(ModelRepository(Path(sys.argv[1])).publish("food", Path(sys.argv[2]), keep=100))
"""
    publishers = [start(script, store.root, onnx) for _ in range(4)]
    taken = [int(line) for each in publishers for line in each.communicate(timeout=60)[0].split()]
    assert list(range(1, 13)) == sorted(taken) == store.versions("food")
    assert 12 == store.serving("food")
