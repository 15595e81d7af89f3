"""Correctness on CUDA, in under nine minutes: what a GPU must do the same as a CPU, and what twice.

    python benchmarks/gpu_check.py [--device cpu] [--out FOLDER]     also: make gpu-check

The stages stand at the end, in the order in which they run; docs/gpu.md says what each one proves.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import gpu_rig as rig


def marked_files() -> list[str]:
    """Return the files that have tests marked `gpu`: others may need what is not there."""
    files = sorted((rig.ROOT / "tests").rglob("test_*.py"))
    marked = [path for path in files if "pytest.mark.gpu" in path.read_text("utf-8")]
    return [path.relative_to(rig.ROOT).as_posix() for path in marked]


def run_marked(output: IO[str], *flags: str) -> int:
    """Run the tests marked `gpu`, with no plugin but those that they need; return the exit code.

    Others that are installed may want what a rehearsal hides, or more than there is.
    """
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "pytest_asyncio.plugin",
               "-p", "pytest_timeout", *flags, *marked_files()]  # fmt: skip
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(
        command, cwd=rig.ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
    ).returncode


def marked_tests(device: str, log: Path) -> dict[str, Any]:
    """Run every test marked `gpu`; on CUDA none may skip. What they say is left in `log`."""
    with log.open("w", encoding="utf-8") as output:
        code = run_marked(output, "-v", "-rs", "--durations=10", "--timeout=150")
    said = log.read_text("utf-8")
    last = (said.strip().splitlines() or ["nothing"])[-1]
    assert code == 0, said[-5000:]
    if device == "cuda":
        assert "passed" in last and "skipped" not in last, said[-5000:]
    return {"pytest": last, "files": marked_files()}


def shares_of(device: str, work: Path, log: Path) -> tuple[list[rig.Share], list[rig.Share]]:
    """Return what the specification names, and what goes beyond it, each with its share.

    Together they fit into the time that there is on CUDA.
    """
    from benchmarks.gpu_check_serving import Serving
    from benchmarks.gpu_check_training import Training
    from benchmarks.gpu_made import Made

    made = Made(device, work)
    training, serving = Training(made), Serving(made)
    named: list[rig.Share] = [
        ("provider", serving.provider, 15),
        ("step_parity", training.step_parity, 15),
        ("curves", training.curves, 60),
        ("onnx", serving.onnx, 20),
        ("graphs", serving.graphs, 35),
        ("jpeg", serving.jpeg, 15),
        ("resume", training.resume, 50),
        ("compiled", training.compiled, 50),
        ("marked_tests", lambda: marked_tests(device, log), 150),
    ]
    beyond: list[rig.Share] = [
        ("server", serving.server, 25),
        ("augmentation", training.augmentation, 10),
        ("out_of_memory", training.out_of_memory, 15),
        ("released", serving.released, 40),
    ]
    return named, beyond


def main() -> None:
    """Run the stages."""
    chosen = rig.options(__doc__)
    report = rig.Report("gpu-check", chosen)
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        log = report.path.with_suffix(".tests.txt")
        report.run(*shares_of(report.device, Path(folder), log))
        report.end()


if __name__ == "__main__":
    main()
