"""The scripts for an hour on a GPU, rehearsed in short, in what a bare machine has and no more."""

import json
import os
import subprocess
import sys
import zipfile

import pytest

from tests.paths import ROOT

BARE = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(ROOT / "benchmarks" / "bare"), str(ROOT)]),
    "OMP_NUM_THREADS": "1",
}


def bare(*command: str, **settings) -> subprocess.CompletedProcess:
    """Run Python as on a machine without Prefect, Optuna and the like."""
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=BARE, capture_output=True, text=True, **settings
    )


def test_training_and_serving_need_nothing_that_a_bare_machine_lacks():
    """Without Prefect, Optuna or MLflow every module of both sides but the reports is imported."""
    script = """
import importlib, pkgutil, sys
import service, training
for name in ("prefect", "optuna", "mlflow", "fastapi"):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        continue
    sys.exit(f"{name} is not hidden")
for name in ("training.loop.trainer", "training.loop.batch_finder", "training.export.onnx_export",
             "training.samples.sample", "training.cli.train", "service.server.server",
             "service.client", "service.cli.serve", "hansang"):
    importlib.import_module(name)
print("all")
"""
    done = bare("-c", script)

    assert "all" == done.stdout.strip(), done.stderr


@pytest.mark.parametrize(
    ("script", "stages"),
    [
        ("gpu_check", ["step_parity", "augmentation"]),
        ("gpu_check", ["jpeg"]),
        ("gpu_train", ["ceilings", "off-8"]),
        ("gpu_serve", ["fp32-nhwc-eager", "raw-fp16-workers"]),
    ],
)
def test_a_script_is_rehearsed(script, stages, tmp_path):
    """Each script runs its stages on a CPU and leaves a report with machine, commit and figures."""
    done = bare(
        f"benchmarks/{script}.py", "--device", "cpu", "--out", str(tmp_path),
        "--only", ",".join(stages), "--budget-s", "120",
    )  # fmt: skip

    (path,) = tmp_path.glob("*.json")
    report = json.loads(path.read_text("utf-8"))
    assert 0 == done.returncode, done.stdout[-2000:] + done.stderr[-2000:]
    assert set(stages) == set(report["stages"]) - {"story"}
    assert {"gpu", "torch", "onnxruntime", "commit"} <= set(report["machine"])
    assert f"commit {report['machine']['commit']}" in path.with_suffix(".md").read_text("utf-8")


def test_a_failed_stage_and_one_without_time_spare_the_others(tmp_path):
    """What goes wrong is noted with its place; the report is there after each stage."""
    script = f"""
import argparse, sys, time
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from benchmarks.gpu_stages import rig
chosen = argparse.Namespace(device="cpu", only="", budget_s=30.0, out=Path({str(tmp_path)!r}))
rig.give_back = lambda: None
rig.machine = lambda device: dict.fromkeys(
    ("gpu", "commit", "python", "torch", "onnxruntime", "driver"), "x")
report = rig.Report("gpu-test", chosen)
report.stage("good", lambda: {{"rows": [{{"batch": 1, "images_per_s": 2}}]}})
report.stage("bad", lambda: 1 / 0)
def slow():
    rig.kept_rows().append({{"batch": 2, "images_per_s": 5}})
    time.sleep(20)
report.stage("slow", slow, most_s=0.2)
report.stage("late", lambda: {{}}, needs_s=60)
report.stage("last", lambda: {{"figure": 7}})
report.end()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)

    stages = json.loads((tmp_path / "gpu-test-x.json").read_text("utf-8"))["stages"]
    assert 1 == done.returncode
    assert ["ok", "ok"] == [stages[name]["status"] for name in ("good", "last")]
    assert "ZeroDivisionError" in stages["bad"]["status"]
    assert "longer than there was time" in stages["slow"]["status"]
    assert [{"batch": 2, "images_per_s": 5}] == stages["slow"]["rows"]
    assert "no time was left" in stages["late"]["status"]
    assert "| 1 | 2 |" in (tmp_path / "gpu-test-x.md").read_text("utf-8")


def test_the_shares_of_the_check_fit_its_time(tmp_path):
    """On CUDA all stages that use up their shares end within the budget, nothing is dropped."""
    script = f"""
import sys
from pathlib import Path
sys.path.insert(0, ".")
from benchmarks import gpu_check
from benchmarks.gpu_stages import rig
groups = gpu_check.shares_of("cuda", Path({str(tmp_path)!r}), dict)
print(sum(share_s for group in groups for _, _, share_s in group), rig.BUDGET_S["cuda"])
"""
    shares_s, budget_s = map(float, bare("-c", script).stdout.split())

    # Imports are 10 s of it.
    assert shares_s + 10 <= budget_s < 9 * 60


@pytest.mark.parametrize("left", ["nothing", "a dead link", "its own"])
def test_cuda_libraries_are_linked_beside_an_onnxruntime_that_lies_apart(left, tmp_path):
    """The `nvidia` of torch is put where `preload_dlls` looks, unless there is one."""
    brought, torchs = tmp_path / "brought", tmp_path / "torchs"
    (brought / "onnxruntime").mkdir(parents=True)
    (brought / "onnxruntime" / "__init__.py").touch()
    library = torchs / "nvidia" / "cu13" / "lib" / "libcudart.so.13"
    library.parent.mkdir(parents=True)
    library.touch()
    if left == "a dead link":
        (brought / "nvidia").symlink_to(tmp_path / "gone")
    elif left == "its own":
        (brought / "nvidia").mkdir()
    path = os.pathsep.join(map(str, (brought, torchs, ROOT)))

    # Twice: a second script finds what the first one left.
    for _ in range(2):
        script = "from benchmarks.gpu_stages.machine import link_cuda; link_cuda()"
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONPATH": path}, check=True,
        )  # fmt: skip

    linked = brought / "nvidia" / library.relative_to(torchs / "nvidia")
    assert linked.exists() == (left != "its own")


def test_every_gpu_test_can_be_collected_on_a_bare_machine():
    """No file with a test for a GPU imports what such a machine lacks."""
    script = """
import sys
sys.path.insert(0, ".")
from benchmarks.gpu_check import marked_files, start_marked
assert "tests/training/gpu/test_gpu.py" in marked_files()
sys.exit(start_marked(sys.stdout, "--collect-only").wait())
"""
    done = bare("-c", script)

    assert 0 == done.returncode, done.stdout[-2000:] + done.stderr[-2000:]
    assert "test_the_same_on_cuda" in done.stdout


def test_wheels_are_those_of_the_lock_and_stay_installable(tmp_path):
    """What is carried has the versions of the lock, and is packed again without loss."""
    sys.path.insert(0, str(ROOT))
    try:
        from benchmarks.gpu_wheels import pack, pinned
    finally:
        sys.path.remove(str(ROOT))
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as wheel:
        wheel.writestr("a/__init__.py", "x = 1\n" * 100)

    (tmp_path / "out").mkdir()
    pack(tmp_path / "a.whl", tmp_path / "out" / "a.whl")

    lock = (ROOT / "requirements" / "dev.txt").read_text("utf-8")
    assert all(f"{wheel} \\" in lock or f"{wheel} ;" in lock for wheel in pinned())
    names = (ROOT / "benchmarks" / "bare" / "carried.txt").read_text("utf-8").splitlines()
    carried = {name for name in names if name and name[0] != "#"} - {"onnxruntime-gpu==1.30.0"}
    assert carried == {wheel.split("==")[0] for wheel in pinned()}
    with zipfile.ZipFile(tmp_path / "out" / "a.whl") as wheel:
        assert b"x = 1\n" * 100 == wheel.read("a/__init__.py")
        assert zipfile.ZIP_LZMA == wheel.infolist()[0].compress_type
