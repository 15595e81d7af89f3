"""The program for a GPU, rehearsed in short, in what a bare machine has and no more."""

import json
import os
import struct
import subprocess
import sys

import pytest
import zstandard

from benchmarks import gpu
from benchmarks.gpu_stages.report import Report
from benchmarks.gpu_stages.rig import Group, Rig, Stage
from benchmarks.gpu_stages.steps import SLOWER
from benchmarks.thin_cuda import thin
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


@pytest.fixture(scope="module")
def on_a_bare_machine() -> subprocess.CompletedProcess:
    """Import what training and serving are there, then collect the tests for a GPU."""
    script = """
import importlib, os, sys
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
print("all", flush=True)
sys.path.insert(0, ".")
import pytest
from benchmarks.gpu_stages.check_tests import command, marked_files
assert "tests/training/gpu/test_gpu.py" in marked_files()
os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
sys.exit(pytest.main(command("--collect-only")[3:]))
"""
    return bare("-c", script)


def test_training_and_serving_need_nothing_that_a_bare_machine_lacks(on_a_bare_machine):
    """Without Prefect, Optuna or MLflow every module of both sides but the reports is imported."""
    assert "all" == on_a_bare_machine.stdout.splitlines()[0], on_a_bare_machine.stderr


@pytest.mark.parametrize(
    "steps",
    [
        ["eager-512"],
        *(
            pytest.param(steps, marks=pytest.mark.long)
            for steps in (
                ["versions", "provider", "ceilings"],
                ["model-fp16", "replicas"],
                ["step_parity", "augmentation"],
                ["jpeg"],
            )
        ),
    ],
)
def test_the_program_is_rehearsed(steps, tmp_path):
    """It runs its steps on a CPU and leaves a report with device, commit and figures."""
    done = bare(
        "benchmarks/gpu.py", "--device", "cpu", "--out", str(tmp_path),
        "--only", ",".join(steps), "--budget-s", "240",
    )  # fmt: skip

    (path,) = tmp_path.glob("*.json")
    report = json.loads(path.read_text("utf-8"))
    assert 0 == done.returncode, done.stdout[-2000:] + path.with_suffix(".log").read_text()[-3000:]
    assert set(steps) == set(report["steps"])
    assert "rehearsal on a CPU" == report["device"]
    assert f"commit {report['commit']}" in path.with_suffix(".md").read_text("utf-8")


def test_a_fault_a_hang_and_a_killed_process_each_cost_one_step(tmp_path, monkeypatch):
    """What goes wrong is noted; the steps after it run, and rows told before a hang are kept."""
    report = ran(
        tmp_path, monkeypatch,
        (Stage("first", 100, (Group("staged", {
            "good": 9, "bad": 9, "dies": 9, "hangs": 0.5, "last": 9,
        }),)),),
    )  # fmt: skip

    steps = report["steps"]
    assert ["ok", "ok"] == [steps[name]["status"] for name in ("good", "last")]
    assert "ZeroDivisionError" in steps["bad"]["status"]
    assert "its process died, exit code 7" in steps["dies"]["status"]
    assert "longer than it may" in steps["hangs"]["status"]
    assert [{"batch": 2, "images_per_s": 5}] == steps["hangs"]["rows"]
    assert "| 2 | 5 |" in (tmp_path / "out.md").read_text("utf-8")


def test_a_stage_that_is_over_leaves_its_other_steps_for_the_end(tmp_path, monkeypatch):
    """A stage's budget cuts off the step that runs; those not begun run after the other stages."""
    stages = (
        Stage("first", 8 / SLOWER["cpu"], (Group("staged", {"hangs": 99, "last": 9}),)),
        Stage("second", 100, (Group("staged", {"good": 9}),)),
    )
    report = ran(tmp_path, monkeypatch, stages)

    assert ["hangs", "good", "last"] == list(report["steps"])
    assert "its stage had no more time" in report["steps"]["hangs"]["status"]
    assert "ok" == report["steps"]["last"]["status"]


def ran(tmp_path, monkeypatch, stages) -> dict:
    """Run stages of a module that is made here, and return the report."""
    (tmp_path / "staged.py").write_text(
        """
import os, time
from benchmarks.gpu_stages.steps import rows
def hang():
    rows().append({"batch": 2, "images_per_s": 5})
    time.sleep(1000)
def steps(device, work):
    return {"good": dict, "bad": lambda: 1 / 0, "dies": lambda: os._exit(7), "hangs": hang,
            "last": lambda: {"figure": 7}}
""",
        "utf-8",
    )
    # These steps compute nothing: a process of theirs need not import torch, which takes 2 s.
    (tmp_path / "sitecustomize.py").write_text(
        f"""
import sys
from types import SimpleNamespace
sys.modules["torch"] = SimpleNamespace(
    compile=None, cuda=SimpleNamespace(is_available=lambda: False))
import benchmarks.gpu_stages
benchmarks.gpu_stages.__path__.append({str(tmp_path)!r})
""",
        "utf-8",
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    report = Report(tmp_path / "out.json", {"device": "a test", "commit": "x", "at": "now"})
    Rig(report, device="cpu", budget_s=200).run(stages)
    return json.loads((tmp_path / "out.json").read_text("utf-8"))


def test_the_stages_fit_the_time():
    """On CUDA the stages that use up their budgets end in time, and no step is named twice."""
    names = [name for stage in gpu.STAGES for name in stage.steps]

    assert sum(stage.budget_s for stage in gpu.STAGES) <= gpu.BUDGET_S
    assert len(names) == len(set(names))
    assert all(
        most_s <= stage.budget_s
        for stage in gpu.STAGES for group in stage.groups for most_s in group.most_s.values()
    )  # fmt: skip


def test_the_best_figures_are_set_beside_the_aims(tmp_path):
    """The head of the report has what was aimed at; what was not measured is named so."""
    report = Report(tmp_path / "gpu.json", {"device": "a test", "commit": "x", "at": "now"})
    row = {"ours_photos_per_s": 20_000, "s_an_epoch_of_33593": 1.68, "ours_over_bare": 0.85}
    report.add("training", "compiled-512", {"status": "ok", "took_s": 1, "rows": [row]})
    lone = {"kind": "raw", "calls_in_flight": 1, "images_per_s": 600, "p50_ms": 1.6}
    many = {"kind": "raw", "calls_in_flight": 12, "images_per_s": 21_000, "p50_ms": 30}
    report.add("serving", "replicas", {"status": "ok", "took_s": 1, "rows": [lone, many]})

    text = (tmp_path / "gpu.md").read_text("utf-8")
    assert "| <= 3.0 | 1.68 (met) |" in text
    assert "| >= 0.9 | 0.85 (missed) |" in text
    assert "| >= 20,000 | 21000 (met) |" in text
    assert "| <= 2.0 | 1.6 (met) |" in text
    assert 2 == text.count("not measured")


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


def test_every_gpu_test_can_be_collected_on_a_bare_machine(on_a_bare_machine):
    """No file with a test for a GPU imports what such a machine lacks."""
    done = on_a_bare_machine
    assert 0 == done.returncode, done.stdout[-2000:] + done.stderr[-2000:]
    assert "test_the_same_on_cuda" in done.stdout


def container(*entries: bytes) -> bytes:
    """Return a fatbin of entries."""
    body = b"".join(entries)
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body


def entry(arch: int, kernel: str) -> bytes:
    """Return the code of one kernel for an architecture."""
    code = b"\x7fELF" + f".text.{kernel}".encode() + bytes(50)
    packed = zstandard.ZstdCompressor().compress(code)
    packed += bytes(-len(packed) % 8)
    header = struct.pack("<IIQIIIII", 2, 64, len(packed), len(packed), 0, 0, arch, 0)
    header += bytes(56 - len(header)) + struct.pack("<Q", len(code))
    return header + packed


def library(*containers: bytes) -> bytes:
    """Return an ELF file with a section of fatbins."""
    names, body = b"\0.nv_fatbin\0.shstrtab\0", b"".join(containers)
    at = 64 + len(body)
    table = at + len(names)
    file = bytearray(64)
    file[:5] = b"\x7fELF\x02"
    struct.pack_into("<Q", file, 0x28, table)
    struct.pack_into("<HHH", file, 0x3A, 64, 3, 2)
    sections = [(0, 0, 0), (1, 64, len(body)), (12, at, len(names))]
    rows = [struct.pack("<IIQQQQ", name, 0, 0, 0, start, size).ljust(64, b"\0")
            for name, start, size in sections]  # fmt: skip
    return bytes(file) + body + names + b"".join(rows)


def test_a_thin_library_keeps_the_kernels_of_one_architecture_at_their_place():
    """Other architectures and kernels of language models go; size and addresses stay."""
    mine, other, llm = entry(90, "conv"), entry(80, "conv"), entry(90, "flash_fwd")
    whole = library(container(other, mine), container(llm), container(other))

    thinned = thin(whole, 90)

    second = 64 + len(container(other, mine))
    assert len(whole) == len(thinned)
    assert mine == thinned[80 : 80 + len(mine)]
    assert (len(mine),) == struct.unpack_from("<Q", thinned, 72)
    assert llm[:64] == thinned[second + 16 : second + 80]
    assert not any(thinned[second + 80 : second + 16 + len(llm)])
    assert thinned.endswith(whole[second + len(container(llm)) :]), "one entry must stay"


def test_a_library_that_is_laid_out_in_another_way_is_refused():
    """Nothing is thinned by guessing: no ELF, no such architecture, an entry beyond its end."""
    long = bytearray(entry(90, "conv"))
    struct.pack_into("<Q", long, 8, 2**20)

    for broken in (
        b"MZ" + bytes(100),
        library(container(entry(80, "x"))),
        library(container(long)),
    ):
        with pytest.raises(ValueError, match=r"ELF|sm_90|laid out"):
            thin(broken, 90)
