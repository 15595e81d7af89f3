"""Prefect tasks: thin wrappers that pass paths and plain values, never tensors."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect import task
from prefect.logging import get_run_logger

from flows.release_gate import changes, evaluation, publish
from flows.release_gate.candidate import Candidate, Release
from flows.release_gate.gate import Rules
from flows.tasks.children import died, refused, run_child
from flows.tasks.parameters import Finetuning, Places
from flows.tasks.start import start_from
from service.models.working_copy import working_copy
from terminal import Progress
from training.buckets import mirror


def _log_every(percent: int) -> Progress:
    """Return a progress that logs a line to the run each time another `percent` is done."""
    logger = get_run_logger()
    reported = 0

    def report(done: int, total: int, note: str = "") -> None:
        nonlocal reported
        step = done * 100 // max(total, 1) // percent
        if step > reported:
            reported = step
            logger.info("%d of %d %s", done, total, note)

    return report


@task(retries=2, retry_delay_seconds=30, retry_condition_fn=refused)
def inspect(data: Path, out: Path, group: str = "") -> dict[str, Any]:
    """Make the data sheet of a folder of photos: what is there, and what is wrong."""
    from training.datasheet.inspection import inspect as examine
    from training.datasheet.sheet import write

    sheet = examine(data, group=group, tell=get_run_logger().info, progress=_log_every(25))
    write(sheet, out)
    return sheet.to_dict()


@task
def compare(
    data: Path, bad: Collection[str], model: str, places: Places, group: str = ""
) -> changes.Change:
    """Compare the photos, but for the `bad` ones, with those of the last run that was weighed."""
    from training.data.dataset import draw, readable, scan
    from training.data.prepare import contents

    folder = scan(data, group=group)
    digests = contents(folder)
    folder = readable(draw(folder, digests), dict.fromkeys(bad, "cannot be read"))
    now = [
        (photo.split, folder.labels[photo.target], digests[name])
        for photo in folder.photos
        if (name := folder.name(photo)) in digests
    ]
    return changes.since_last_run(
        now, model, places.repository, mirror.local_path(places.cache_dir)
    )


@task
def prepare(data: Path, image_size: int, cache_dir: Path, group: str = "") -> Path:
    """Build the dataset cache, or find that it is up to date."""
    from training.data.dataset import scan
    from training.data.prepare import prepare as build

    folder = scan(data, group=group)
    for line in folder.lines():
        get_run_logger().info("%s", line)
    return build(folder, image_size, cache_root=cache_dir, progress=_log_every(10)).path


@task(retries=2, retry_delay_seconds=10, retry_condition_fn=died)
def review(arguments: list[str]) -> dict[str, Any]:
    """Run `hansang review` until it ends; a retry goes on with the fold that was begun.

    Raises:
        UserError: It refused or failed; the message is its last line. Not retried.
        RuntimeError: The process died or was stopped. Retried.
    """
    result: dict[str, Any] = run_child(["-m", "hansang", "review", *arguments])
    return result


@task(retries=2, retry_delay_seconds=10, retry_condition_fn=died)
def train(arguments: list[str]) -> dict[str, Any]:
    """Run `python -m training` until it ends; a retry resumes from the last checkpoint.

    SIGTERM, a cancellation and any other end of this task stop the training process, which saves
    a checkpoint first.

    Raises:
        UserError: Training refused or failed; the message is its last line. Not retried.
        RuntimeError: The process died or was stopped. Retried.
    """
    result: dict[str, Any] = run_child(["-m", "training", *arguments])
    return result


@task(retries=2, retry_delay_seconds=10, retry_condition_fn=died)
def finetune(arguments: list[str]) -> dict[str, Any]:
    """Run `hansang finetune` for one strategy and one seed; stopped and retried as `train`."""
    result: dict[str, Any] = run_child(["-m", "hansang", "finetune", *arguments])
    return result


@task
def similarity(data: Path, source: str, search: Finetuning, places: Places, study_dir: Path) -> Any:
    """Measure how many new photos there are, and how well the old features tell them apart.

    Of a study that goes on, the photos are those that it began with.
    """
    from training.cli.photos import look_again, prepared
    from training.finetuning.search import config_for
    from training.finetuning.similarity import measure
    from training.runs.run_directory import begun_in

    start = start_from(source, repository=places.repository, runs_dir=places.runs_dir)
    size = config_for("full", start, image_size=search.image_size).image_size
    cache = prepared(
        look_again(data, places.cache_dir, group=search.group),
        size,
        places.cache_dir,
        begun=begun_in(study_dir),
    )
    found = measure(cache, start)
    for sentence in found.sentences:
        get_run_logger().info(sentence)
    return found


@task(task_run_name="evaluate {run_dir}")
def evaluate(
    run_dir: Path,
    model: str,
    repository: Path,
    rules: Rules,
    precision: str,
    weighing: str,
    min_confidence: float | None = None,
) -> Candidate:
    """Export the best epoch and measure it beside the version that serves.

    What was measured lies in the run: a flow that waited for a person does not measure again.
    """
    with working_copy(repository) as folder:
        return evaluation.evaluate(
            run_dir, model=model, repository=folder, rules=rules, precision=precision,
            min_confidence=min_confidence, weighing=weighing, progress=_log_every(25),
        )  # fmt: skip


@task
def decide(
    candidate: Candidate,
    repository: Path,
    keep: int,
    force: str = "",
    approved: str = "",
    refused: str = "",
) -> Release:
    """Publish a candidate if it is better, and record what was decided."""
    with working_copy(repository) as folder:
        decided = publish.decide(
            candidate, repository=folder, keep=keep, force=force, approved=approved, refused=refused
        )
    path = decided.path and repository / decided.path.relative_to(folder)
    return replace(decided, repository=repository, path=path)


@task
def rollback(model: str, repository: Path, reason: str) -> int:
    """Make the previously served version serve again; return its number."""
    from service.models.repository import ModelRepository

    with working_copy(repository) as folder:
        return ModelRepository(folder).rollback(model, reason=reason)
