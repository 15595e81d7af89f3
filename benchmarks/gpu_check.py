"""Correctness on CUDA, in under nine minutes: what a GPU must do the same as a CPU, and what twice.

    python benchmarks/gpu_check.py [--device cpu] [--out FOLDER]     also: make gpu-check

The stages stand at the end, in the order in which they run; docs/guides/gpu.md says what each
proves.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.gpu_stages import rig


def marked_files() -> list[str]:
    """Return the files that have tests marked `gpu`: others may need what is not there."""
    files = sorted((rig.ROOT / "tests").rglob("test_*.py"))
    marked = [path for path in files if "pytest.mark.gpu" in path.read_text("utf-8")]
    return [path.relative_to(rig.ROOT).as_posix() for path in marked]


def start_marked(output: IO[str], *flags: str, most_s: float = 600) -> subprocess.Popen[bytes]:
    """Start the tests marked `gpu`, with no plugin but those that they need.

    Others that are installed may want what a rehearsal hides, or more than there is. `timeout` ends
    them, and what they started, whatever becomes of this process.
    """
    command = ["timeout", "--kill-after=5", f"{most_s:.0f}", sys.executable, "-m", "pytest",
               "-m", "gpu", "-p", "pytest_asyncio.plugin", "-p", "pytest_timeout", *flags,
               *marked_files()]  # fmt: skip
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.Popen(
        command, cwd=rig.ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
    )


def marked_tests(device: str, tests: subprocess.Popen[bytes], log: Path) -> dict[str, Any]:
    """Wait for every test marked `gpu`; on CUDA none may skip."""
    try:
        code = tests.wait()
    finally:
        tests.terminate()
    said = log.read_text("utf-8")
    told = [line for line in said.splitlines() if re.search(r"\d+ (passed|failed|skipped)", line)]
    last = told[-1] if told else f"no summary; {said.count(' PASSED')} passed until then"
    assert code == 0, f"exit code {code}: {last}\n{said[-5000:]}"
    if device == "cuda":
        assert "passed" in last and "skipped" not in last, said[-5000:]
    return {"pytest": last, "files": marked_files()}


def shares_of(
    device: str, work: Path, marked: rig.Stage
) -> tuple[list[rig.Share], list[rig.Share]]:
    """Return what the specification names, and what goes beyond it, each with its share.

    Together they fit into the time that there is on CUDA.
    """
    from benchmarks.gpu_stages.check_serving import Serving
    from benchmarks.gpu_stages.check_training import Training
    from benchmarks.gpu_stages.made import Made

    made = Made(device, work)
    training, serving = Training(made), Serving(made)
    named: list[rig.Share] = [
        ("provider", serving.provider, 15),
        ("compiler", training.compiler, 10),
        ("step_parity", training.step_parity, 15),
        ("curves", training.curves, 70),
        ("onnx", serving.onnx, 20),
        ("graphs", serving.graphs, 40),
        ("jpeg", serving.jpeg, 15),
        ("resume", training.resume, 60),
        ("compiled", training.compiled, 60),
        ("marked_tests", marked, 115),
    ]
    beyond: list[rig.Share] = [
        ("server", serving.server, 25),
        ("augmentation", training.augmentation, 10),
        ("out_of_memory", training.out_of_memory, 15),
        ("released", serving.released, 40),
    ]
    return named, beyond


def main() -> None:
    """Run the stages; beside them, from the start, the tests: they compile for minutes."""
    chosen = rig.options(__doc__)
    report = rig.Report("gpu-check", chosen)
    device, log = report.device, report.path.with_suffix(".tests.txt")
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder, log.open("w") as output:
        flags = ("-v", "-rs", "--durations=10", "--timeout=150")
        wanted = report.wants("marked_tests")
        tests = start_marked(output, *flags, most_s=report.left_s) if wanted else None

        def marked() -> dict[str, Any]:
            assert tests is not None
            return marked_tests(device, tests, log)

        report.run(*shares_of(device, Path(folder), marked))
    # Not within: it exits at once, and the folder would stay, with its gigabyte.
    report.end()


if __name__ == "__main__":
    main()
