"""All that a GPU is asked, in one call of eight minutes: ceilings, training, serving, correctness.

    python benchmarks/gpu.py [--device cpu] [--out FOLDER]     also: make gpu

The stages stand below in the order in which they run, the most important first. A JSON and a
Markdown file are whole after every step, so a machine that is taken away leaves what was found.
docs/guides/gpu.md says what each step proves, and how to prepare a bare machine.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.gpu_stages.report import Report
from benchmarks.gpu_stages.rig import ROOT, Group, Rig, Stage
from benchmarks.gpu_stages.steps import SLOWER, work_through

BUDGET_S = 480.0
STAGES = (
    Stage("machine", 30, (
        Group("machine", {"versions": 10, "provider": 20, "ceilings": 20}),
    )),
    Stage("training", 90, (
        Group("training", {
            "eager-512": 25, "compiled-512": 25, "eager-1024": 15, "compiled-1024": 20,
        }),
    )),
    Stage("serving", 90, (
        Group("serving", {
            "model-fp16": 25, "one-process": 35, "replicas": 40, "model-fp32": 15,
            "model-fp16-eager": 10, "model-fp32-eager": 10,
        }),
    )),
    # Side by side: nothing is timed.
    Stage("correctness", 120, (
        Group("check_training", {
            "compiler": 15, "step_parity": 15, "resume": 50, "compiled": 40, "out_of_memory": 15,
        }),
        Group("check_serving", {"onnx": 50, "graphs": 40, "released": 40}),
        Group("check_tests", {"marked_tests": 115}),
    )),
    Stage("more of training", 45, (
        Group("training", {
            "profile-training": 25, "graphs-1024": 20, "fast-1024": 20, "compiled-2048": 20,
            "compiled-256": 20, "pinned": 15, "fp32-512": 15,
        }),
    )),
    Stage("more of serving", 45, (
        Group("serving", {
            "profile-serving": 15, "lanes": 15, "options": 30, "raw-fp32": 25, "decoding": 20,
        }),
    )),
    Stage("more of correctness", 45, (
        Group("check_training", {"curves": 40, "augmentation": 10}),
        Group("check_serving", {"jpeg": 40, "server": 25}),
    )),
)  # fmt: skip


def main() -> None:
    """Run the stages, or the steps of one as a process of its own."""
    chosen = options()
    if chosen.work_through:
        work_through(chosen)
    gpu = _gpu() if chosen.device == "cuda" else "rehearsal on a CPU"
    name = re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-")
    about = {"device": gpu, "commit": _commit(),
             "at": time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime())}  # fmt: skip
    # Some steps alone never take the place of a whole report.
    report = Report(chosen.out / f"gpu-{name}{'-part' if chosen.only else ''}.json", about)
    names = set(filter(None, chosen.only.split(",")))
    stages = [stage.only(names) if names else stage for stage in STAGES]
    started_s = time.monotonic()
    rig = Rig(report, device=chosen.device, budget_s=chosen.budget_s)
    rig.run([stage for stage in stages if stage.groups])
    for name in sorted(names - {name for stage in stages for name in stage.steps}):
        report.add("", name, {"status": "failed: there is no such step", "took_s": 0.0})
    print(report.table())
    print(f"report: {report.path}")
    for line in report.faults():
        print(f"not ok: {line}", file=sys.stderr)
    took_s = time.monotonic() - started_s
    good = len(report.steps) - len(report.faults())
    print(f"{good} of {len(report.steps)} steps are ok, in {took_s:.0f} s", flush=True)
    sys.exit(bool(report.faults()))


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda",
        help="cpu rehearses every step at small sizes; its figures mean nothing",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, help="folder of the report; default benchmarks/results")
    parser.add_argument("--budget-s", type=float,
                        help=f"ends by then; default {BUDGET_S:g} on CUDA")  # fmt: skip
    parser.add_argument("--only", default="", help="steps to run, by name, with commas")
    # Of the processes that this one starts:
    parser.add_argument("--work-through", default="", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--tell", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("steps", nargs="*", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    chosen.budget_s = chosen.budget_s or BUDGET_S * SLOWER[chosen.device]
    rehearsal = ROOT / "build" / "rehearsal"
    results = ROOT / "benchmarks" / "results" if chosen.device == "cuda" else rehearsal
    chosen.out = chosen.out or results
    return chosen


def _gpu() -> str:
    """Return the GPU's name, as the driver says it."""
    said = _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    return said.splitlines()[0] if said else "unknown GPU"


def _commit() -> str:
    """Return the commit of the checkout; a copy without git names it in HANSANG_COMMIT."""
    return os.environ.get("HANSANG_COMMIT") or _output(
        "git", "-C", str(ROOT), "describe", "--always", "--dirty"
    ) or "unknown"  # fmt: skip


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


if __name__ == "__main__":
    main()
