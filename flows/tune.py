"""Flow: a hyperparameter search, one task a trial.

All workers of a study are equal. This flow, the command line and flows on other machines may work
on one study at a time, if they use the same --storage and see the same folder of runs.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
)
from prefect.client.schemas.objects import State
from prefect.futures import as_completed
from prefect.logging import get_run_logger
from prefect.states import Completed

from flows.tasks import tasks
from flows.tasks.artifacts import or_warn, publish_pictures
from flows.tasks.children import died, run_child, stopping_children
from flows.tasks.links import link
from flows.tasks.parameters import Places, Search

_FIGURES = ("history", "curves", "parallel", "importances")


@flow(name="tune")
def tune(
    data: Path,
    search: Search = Search(),  # noqa: B008  # frozen
    study: str | None = None,
    places: Places = Places(),  # noqa: B008  # frozen
) -> dict[str, Any]:
    """Search for better settings. Cancelled or killed, the same study resumes where it was."""
    name = study or f"{data.resolve().name}-tune"
    # A study that goes on needs no more than the cache that it began with.
    if not (places.runs_dir / name / "study.json").exists():
        tasks.prepare(data, search.image_size, places.cache_dir, search.group)
    arguments = [
        str(data), "--study", name, *search.arguments(),
        "--runs-dir", str(places.runs_dir), "--cache-dir", str(places.cache_dir),
    ]  # fmt: skip
    with _storage(search.storage), stopping_children():
        _run_trials(arguments, search)
        return _publish(places.runs_dir / name, os.environ.get("HANSANG_STORAGE"))


@contextmanager
def _storage(url: str | None) -> Iterator[None]:
    """Pass the study's storage to child processes, by the environment."""
    before = os.environ.get("HANSANG_STORAGE")
    if url is not None:
        os.environ["HANSANG_STORAGE"] = url
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("HANSANG_STORAGE", None)
        else:
            os.environ["HANSANG_STORAGE"] = before


def _run_trials(arguments: list[str], search: Search) -> None:
    begun = 0
    pending: list[Any] = []
    while True:
        while begun >= 0 and len(pending) < search.workers:
            begun += 1
            pending.append(trial.submit(arguments, begun))
        if not pending:
            break
        done = next(iter(as_completed(pending)))
        pending.remove(done)
        if done.result() is None:
            # The study has all its trials: those that run finish, and no more are started.
            begun = -1
    if search.final:
        final(arguments, search)


@task(task_run_name="trial, the {turn}. here", retries=2, retry_delay_seconds=10,
      retry_condition_fn=died)  # fmt: skip
def trial(arguments: list[str], turn: int) -> dict[str, Any] | State[Any] | None:  # noqa: ARG001
    """Run the study's next trial, or resume one that a dead worker left; None if all are done.

    Its state says what became of it: Completed or Pruned.

    Raises:
        UserError: Nothing can go on until a person mends it. Not retried.
        RuntimeError: The process died or was stopped; a retry goes on from the checkpoint.
    """
    found = run_child(["-m", "hansang", "tune", *arguments, "--most", "1"])
    if not found:
        return None
    outcome: dict[str, Any] = found[0]
    value = outcome["value"]
    reached = "" if value is None else f", {value:.1%}"
    message = f"trial {outcome['number']}: {outcome['state']} after {outcome['epochs']} epochs"
    get_run_logger().info(message + reached)
    name = "Pruned" if outcome["state"] == "pruned" else "Completed"
    return Completed(name=name, message=message + reached, data=outcome)


@task(retries=2, retry_delay_seconds=10, retry_condition_fn=died)
def final(arguments: list[str], search: Search) -> dict[str, Any]:
    """Train the winner and the recipes for longer, and compare them.

    Raises:
        UserError: A run cannot go on until a person mends it. Not retried.
        RuntimeError: The process died or was stopped; a retry goes on from the checkpoint.
    """
    more = ["--final", str(search.final), "--seeds", str(search.seeds)]
    more += ["--workers", str(search.workers)]
    found: dict[str, Any] = run_child(["-m", "hansang", "tune", *arguments, *more])
    reached: dict[str, Any] = found["final"] or {}
    return reached


def _publish(folder: Path, storage: str | None) -> dict[str, Any]:
    """Write the study's report, show it in Prefect, and return its figures."""
    import json

    from training.tuning.study_report import write_from

    page = write_from(folder, storage)
    numbers: dict[str, Any] = json.loads((folder / "ranking.json").read_text("utf-8"))
    or_warn("the study", partial(_show, folder, page, numbers))
    return numbers


def _show(folder: Path, page: Path, numbers: dict[str, Any]) -> None:
    best = "no trial came to its end"
    if numbers["best"] is not None:
        best = f"best {numbers['best']:.1%} (trial {numbers['best_trial']})"
    if numbers["baseline"] is not None:
        best += f", the baseline {numbers['baseline']:.1%}"
    create_markdown_artifact(
        f"## {folder.name}\n\n{best}; {numbers['complete']} complete, {numbers['pruned']} pruned,"
        f" {numbers['saved_share']:.0%} of the epochs saved\n\n[Report]({link(page)})",
        description=f"What {folder.name} found",
    )
    publish_pictures(folder, _FIGURES)
    rows = [
        {key: one[key] for key in ("number", "state", "value", "epochs", "recipe")} | one["params"]
        for one in numbers["trials"]
    ]
    create_table_artifact(rows, description=f"Trials of {folder.name}")
    create_link_artifact(link(page), link_text="report.html", description="The study's report")
