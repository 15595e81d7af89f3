"""A candidate is published once: writes fail, processes die, disks fill, two release at once."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.release_gate.candidate import Candidate
from flows.release_gate.publish import decide
from service.errors import ServiceError
from service.models.repository import ModelRepository
from tests.flows.release_gate.test_kills import EVERY
from tests.paths import ROOT
from tests.service import tiny_onnx

LABELS = ("red", "green", "blue")

# Forks a child for every write of the repository; there it is killed, or the system refuses.
FAULTS = """
import errno, json, os, resource, shutil, signal, sys, traceback
from pathlib import Path
import service.models.model
from flows.release_gate.candidate import Candidate
from flows.release_gate.publish import decide
from service.errors import ServiceError
home, what = Path(sys.argv[1]), sys.argv[2]
candidate = Candidate(**json.loads((home / "candidate.json").read_text()))
EVENTS = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.copyfile", "fsync")
def writes(event, arguments):
    written = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
    return event in EVENTS or written
def child(root, point):
    left, seen = point, []
    def watch(event, arguments):
        nonlocal left
        if not writes(event, arguments) or not any(str(root) in str(a) for a in arguments):
            return
        left -= 1
        if left >= 0 or what == "once" and seen:
            return
        seen.append(event)
        if what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        number = errno.EROFS if what == "read-only" else errno.ENOSPC
        raise OSError(number, os.strerror(number), str(arguments[0]))
    sync = os.fsync
    def fsync(descriptor):
        watch("fsync", (os.readlink(f"/proc/self/fd/{descriptor}"),))
        sync(descriptor)
    if what == "limit":  # files may grow to so many bytes, and no further
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (point * 20, -1))
    else:
        os.fsync = fsync
        sys.addaudithook(watch)
    try:
        decide(candidate, repository=root, keep=2)
        return 10 if what == "limit" or not seen else 0
    except ServiceError as error:
        return 3 if str(root) in str(error) else 5
    except BaseException:
        traceback.print_exc()
        return 4
point = 0
while True:
    root = home / f"{what}-{point}"
    shutil.copytree(home / "models", root)
    pid = os.fork()
    if not pid:
        os._exit(child(root, point))
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    print(json.dumps([str(root), code]), flush=True)
    if code == 10 or what == "read-only":
        break
    point += int(sys.argv[3])
"""


@pytest.fixture
def candidate(tmp_path) -> Callable[..., Candidate]:
    """Give a candidate that was measured beside version 2, and the repository where that serves."""
    store = ModelRepository(tmp_path / "models")
    onnx = tiny_onnx.build(tmp_path / "x.onnx", labels=LABELS)
    for _ in range(2):
        store.publish("food42", onnx)

    def one(weighing: str = "tonight") -> Candidate:
        known = {
            "model": "food42", "run_dir": "runs/x", "weighing": weighing, "onnx": str(onnx),
            "sha256": "", "checkpoint": "", "asked": "fp32", "champion": 2, "promote": True,
            "reason": "better", "epoch": 1, "val_top1": 1.0, "photos_checked": 1,
            "max_difference": 0.0, "split": "val", "left_out": {}, "dataset_hash": "",
            "speed_ms": [[1.0, 1.0], None], "smoke_photos": 1, "image_sizes": [8, 8],
            "verdict": dict.fromkeys(
                ("photos", "challenger_top1", "champion_top1", "gained", "lost", "p_value")),
        }  # fmt: skip
        (tmp_path / "candidate.json").write_text(json.dumps(known))
        return Candidate(**known)

    return one


def start(script: str, *arguments: object) -> subprocess.Popen:
    """Start a Python of its own that finds this checkout."""
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "ORT_DISABLE_TELEMETRY": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def released(store: ModelRepository) -> list[int]:
    """Return the versions that tonight's candidate was released as, by the history."""
    return [line["version"] for line in store.history("food42") if line.get("weighing")]


@pytest.mark.parametrize("what", ["kill", "once", "full", "read-only", "limit"])
def test_whatever_fails_at_any_write_the_candidate_is_published_once(candidate, tmp_path, what):
    """The old version serves or the new one, whole; history says which; a second run ends it."""
    one = candidate()
    killer = start(FAULTS, tmp_path, what, EVERY)
    printed, errors = killer.communicate(timeout=240)
    assert 0 == killer.returncode, errors

    outcomes = [json.loads(line) for line in printed.splitlines()]
    codes = {code for _, code in outcomes}
    # A failure is a sentence that names the repository, and no traceback.
    assert codes <= {0, 3, 10, -9}, (codes, errors)
    assert len(outcomes) > (0 if what == "read-only" else 20 // int(EVERY))
    for root, code in outcomes:
        store = ModelRepository(Path(root))
        serving = store.serving("food42")
        assert serving in (2, 3), root
        store.verify("food42", serving)
        assert ([3] if serving == 3 else []) == released(store), root
        if code in (0, 10):
            assert 3 == serving, "it said that it released"
        again = decide(one, repository=Path(root), keep=2)
        assert again.released
        assert [again.version] == released(store), root
        assert again.version == store.serving("food42")
        if serving == 2:  # a release clears up; what is released needs none
            assert 2 == len(store.versions("food42"))
            assert not list((Path(root) / "food42").glob(".tmp-*"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a file system of its own")
def test_on_a_full_disk_the_old_version_serves_on(candidate, tmp_path):
    """A small file system fills at any byte: the release fails, and is done when there is room."""
    one, disk = candidate(), tmp_path / "disk"
    disk.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)]
    if subprocess.run(mounted, capture_output=True).returncode:
        pytest.skip("this container may not mount a tmpfs")
    try:
        subprocess.run(["cp", "-r", tmp_path / "models", disk], check=True)
        store, free = ModelRepository(disk / "models"), os.statvfs(disk).f_bavail * 4096
        outcomes = set()
        for left in range(0, 80_000, 4096):
            (disk / "filler").write_bytes(bytes(max(free - left, 0)))
            try:
                decide(one, repository=store.root, keep=5)
                outcomes.add("released")
                break
            except ServiceError as error:
                outcomes.add(os.strerror(errno.ENOSPC) if "No space" in str(error) else str(error))
                assert 2 == store.serving("food42")
                assert ([], [1, 2]) == (released(store), store.versions("food42"))
        assert {"released", os.strerror(errno.ENOSPC)} == outcomes
        assert [store.serving("food42")] == released(store)
    finally:
        subprocess.run(["umount", disk], check=True)


RACE = """
import json, sys, time
from pathlib import Path
import service.models.model
from flows.release_gate.candidate import Candidate
from flows.release_gate.publish import decide
from service.errors import ConflictError
home, weighing = Path(sys.argv[1]), sys.argv[2]
known = json.loads((home / "candidate.json").read_text()) | {"weighing": weighing}
print("ready", flush=True)
while not (home / "go").exists():
    time.sleep(0.001)
try:
    print(decide(Candidate(**known), repository=home / "models").version)
except ConflictError:
    print("conflict")
"""


@pytest.mark.parametrize("same", [True, False], ids=["the same candidate", "two candidates"])
def test_two_releases_at_once_publish_one_version(candidate, tmp_path, same):
    """Measured beside the same version, one of two wins; the other is told, or finds it done."""
    candidate()
    racing = [start(RACE, tmp_path, "one" if same else str(number)) for number in range(4)]
    assert ["ready\n"] * 4 == [each.stdout.readline() for each in racing]
    (tmp_path / "go").touch()
    said = sorted(each.communicate(timeout=120)[0].strip() for each in racing)

    store = ModelRepository(tmp_path / "models")
    assert [3] == released(store)
    assert 3 == store.serving("food42")
    assert "3" == said[0]
    assert set(said) <= {"3", "conflict"}
    assert same or 1 == said.count("3")
