"""Prefect tasks: thin wrappers that pass paths and plain values, never tensors.

Training runs in a process of its own, so that a crash in it (out of memory, a driver fault) is a
failed task and not a dead flow, and so that stopping the flow leaves a checkpoint.
"""

import hashlib
import json
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from prefect import task
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger

from flows import steps
from flows.gate import Rules
from flows.parameters import Places
from flows.start import start_from
from flows.survival import gpu, holding
from service.object_store import working_copy
from terminal import Progress, UserError

_STOP_S = 25.0
"""Prefect kills a cancelled run 30 s after SIGTERM; a checkpoint is written well within that."""


def _log_every(percent: int) -> Progress:
    """Report to the run's log, once every `percent` of the work."""
    logger = get_run_logger()
    reported = 0

    def report(done: int, total: int, note: str = "") -> None:
        nonlocal reported
        step = done * 100 // max(total, 1) // percent
        if step > reported:
            reported = step
            logger.info("%d of %d %s", done, total, note)

    return report


@task
def inspect(data: Path, out: Path) -> dict[str, Any]:
    """Make the data sheet of a folder of photos: what is there, and what is wrong."""
    from training.datasheet.inspection import inspect as look
    from training.datasheet.sheet import write

    sheet = look(data, progress=_log_every(25))
    write(sheet, out)
    return sheet.to_dict()


@task
def prepare(data: Path, image_size: int, cache_dir: Path) -> Path:
    """Build the dataset cache, or find that it is up to date."""
    from training.prepare import prepare as build

    return build(data, image_size, cache_root=cache_dir, progress=_log_every(10)).path


def died(task: Any, task_run: Any, state: State[Any]) -> bool:  # noqa: ARG001
    """Retry what a resumed run may mend (a kill, a crash), never what a person must mend."""
    try:
        state.result()
    except UserError:
        return False
    except Exception:
        return True
    return False


@task(retries=2, retry_delay_seconds=10, retry_condition_fn=died)
def train(arguments: list[str]) -> dict[str, Any]:
    """Run `python -m training` until it ends; a retry resumes from the last checkpoint.

    SIGTERM, a cancellation and any other end of this task stop the training process, which saves
    a checkpoint first.

    Raises:
        UserError: Training refused or failed; the message is its last line. Not retried.
        RuntimeError: The process died or was stopped. Retried.
    """
    return run_training(arguments)


@task(retries=2, retry_delay_seconds=10, retry_condition_fn=died)
def finetune(arguments: list[str]) -> dict[str, Any]:
    """Run `hansang finetune` for one strategy and one seed; as `train` in all else."""
    result: dict[str, Any] = run_child(["-m", "hansang", "finetune", *arguments])
    return result


@task
def similarity(data: Path, source: str, image_size: int | None, places: Places) -> Any:
    """Measure how large new photos are, and how like those that the weights learnt from."""
    from training.finetuning.search import config_for
    from training.finetuning.similarity import measure
    from training.prepare import prepare as build

    start = start_from(source, repository=places.repository, runs_dir=places.runs_dir)
    size = config_for("full", start, image_size=image_size).image_size
    cache = build(data, size, cache_root=places.cache_dir, progress=_log_every(10))
    found = measure(cache, start)
    for sentence in found.sentences:
        get_run_logger().info(sentence)
    return found


def run_training(arguments: list[str]) -> dict[str, Any]:
    """Run `python -m training` as a child that never outlives this process by long."""
    result: dict[str, Any] = run_child(["-m", "training", *arguments])
    return result


def run_child(arguments: list[str]) -> Any:
    """Run Python as a child that holds its run directory, if it names one, and the GPU.

    Returns what it prints as JSON.
    """
    say = get_run_logger().info
    run = arguments[arguments.index("--run") + 1] if "--run" in arguments else None
    with holding(run and f"run-{hash_of(run)}", say) as its, holding(gpu(), say) as gpus:
        return _run_child(arguments, (*its, *gpus))


def hash_of(run: str) -> str:
    """Return what stands for a run's name in the name of a lock: a name may hold anything."""
    return hashlib.sha256(run.encode()).hexdigest()[:16]


def _run_child(arguments: list[str], locks: tuple[int, ...]) -> Any:
    logger = get_run_logger()
    on_terminal = sys.stderr.isatty()
    process = subprocess.Popen(
        [sys.executable, *arguments, "--json", "--stop-with-parent"],
        # The child watches this pipe: it ends when we do, also when we are killed with SIGKILL.
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # On a terminal the child draws its own progress bar; elsewhere its lines go to the log.
        stderr=None if on_terminal else subprocess.PIPE,
        text=True,
        pass_fds=locks,
        # A signal to our group is ours to pass on: the child would be killed while it saves.
        start_new_session=not on_terminal,
    )
    last_line = ""
    try:
        for line in process.stderr or ():
            last_line = line.rstrip() or last_line
            logger.info(last_line)
        output = process.stdout.read() if process.stdout else ""
        code = process.wait()
    except BaseException:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_S)
        process.kill()
        raise
    finally:
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe:
                pipe.close()
    if code not in (0, UserError.exit_code):
        raise RuntimeError(f"training ended with exit code {code}; the run can be resumed")
    if code != 0:
        reason = last_line.removeprefix("error: ") if not on_terminal else ""
        raise UserError(reason or f"training ended with exit code {code}")
    return json.loads(output)


@task(persist_result=True, result_serializer="json", task_run_name="weigh {run_dir}")
def weigh(
    run_dir: Path,
    model: str,
    repository: Path,
    rules: Rules,
    champion: int | None,  # noqa: ARG001
    precision: str = "fp32",
) -> dict[str, Any]:
    """Export the best epoch and measure it beside `champion`, the version that serves.

    The result is kept: a flow that waited for a person does not measure again.
    """
    with working_copy(repository) as folder:
        return asdict(
            steps.weigh(
                run_dir,
                model=model,
                repository=folder,
                rules=rules,
                precision=precision,
                progress=_log_every(25),
            )
        )


@task
def decide(
    candidate: steps.Candidate,
    repository: Path,
    keep: int,
    force: str = "",
    approved: str = "",
    refused: str = "",
) -> steps.Release:
    """Publish a candidate that is better, and write down what was decided."""
    with working_copy(repository) as folder:
        decided = steps.decide(
            candidate, repository=folder, keep=keep, force=force, approved=approved, refused=refused
        )
    path = decided.path and repository / decided.path.relative_to(folder)
    return replace(decided, repository=repository, path=path)


@task
def rollback(model: str, repository: Path, reason: str) -> int:
    """Make the version serve that served before."""
    from service.model_store import ModelStore

    with working_copy(repository) as folder:
        return ModelStore(folder).rollback(model, reason=reason)
