"""Flows: release the best epoch of a run if it is better than what serves; and roll back."""

from functools import partial
from pathlib import Path
from typing import Any, Literal

from prefect import flow, runtime
from prefect.client.schemas.objects import State
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from prefect.logging import get_run_logger
from prefect.states import Completed
from pydantic import Field

from flows.release_gate.candidate import Candidate, Release
from flows.release_gate.evaluation import serving_version
from flows.release_gate.gate import Rules
from flows.tasks import tasks
from flows.tasks.artifacts import candidate_table, or_warn, publish_decision
from flows.tasks.parameters import Places, Threshold
from service.errors import ConflictError
from training.buckets import mirror

_APPROVAL_S = 7 * 86400
_ATTEMPTS = 2


class Approval(RunInput):
    """What a person decides about a candidate."""

    release: bool = Field(description="Release it?")
    who: str = Field("", description="Your name, for the history.")
    reason: str = Field("", description="Why, for the history.")


@flow(name="release")
def release(
    run_dir: Path,
    model: str = "food42",
    places: Places = Places(),  # noqa: B008  # frozen
    rules: Rules = Rules(),  # noqa: B008  # frozen
    keep: int = 5,
    force: str = "",
    ask: bool = False,
    precision: Literal["fp32", "fp16", "int8", "auto"] = "fp32",
    min_confidence: Threshold = None,
) -> State[Any]:
    """Export, check parity, measure beside what serves, and publish what is better.

    Args:
        run_dir: The run directory.
        model: Name of the model in the repository.
        places: Where the model repository lies.
        rules: What a model must reach to be released.
        keep: Versions to keep.
        force: A reason to release it whatever the rules say.
        ask: Wait for a person's approval before a release. Needs a deployment: the run gives its
            process and its place in the pool back while it waits.
        precision: In how many bits it is served; `auto`: the fastest that answers the same.
        min_confidence: Answers that are less probable say that they are below the threshold.
    """
    return outcome(
        released(
            mirror.pull(run_dir), model, places=places, rules=rules, keep=keep, force=force,
            ask=ask, precision=precision, min_confidence=min_confidence,
        )
    )  # fmt: skip


def released(
    run_dir: Path,
    model: str,
    *,
    places: Places,
    rules: Rules,
    keep: int = 5,
    force: str = "",
    ask: bool = False,
    precision: str = "fp32",
    min_confidence: float | None = None,
) -> Release:
    """Evaluate and decide within a flow, and show the decision in Prefect.

    Raises:
        ConflictError: Other releases were quicker, twice.
    """
    for attempt in range(_ATTEMPTS):
        # This flow run's own, also after a restart; against another champion it is another one.
        champion = serving_version(model, places.repository)
        weighing = f"{runtime.flow_run.id}-{champion or 0}"
        candidate = tasks.evaluate(
            run_dir, model, places.repository, rules, precision, weighing, min_confidence
        )
        approved = refused = ""
        # What serves by an earlier release of this very epoch was asked about then.
        if ask and candidate.champion == champion and (candidate.promote or force):
            answer = _ask(candidate)
            said = ", ".join(filter(None, (answer.reason, answer.who))) or "by a person"
            approved, refused = (said, "") if answer.release else ("", said)
        try:
            decided = tasks.decide(
                candidate, places.repository, keep, force=force, approved=approved, refused=refused
            )
            break
        except ConflictError as error:
            # Another release was quicker, so the candidate was measured against the wrong one.
            if attempt + 1 == _ATTEMPTS:
                raise
            get_run_logger().warning("%s", error)
    or_warn("the decision", partial(publish_decision, decided))
    return decided


def outcome(decided: Release) -> State[Any]:
    """Return the state that a flow ends in: Released or Kept, for a refusal is no failure."""
    name = "Released" if decided.released else "Kept"
    return Completed(name=name, message=decided.reason, data=decided)


def _ask(candidate: Candidate) -> Approval:
    text = f"{candidate_table(candidate)}\n\nIt waits for a week; after that nothing is released."
    form = Approval.with_initial_data(description=text, release=candidate.promote)
    # The flow runs again from the top once it is answered, and finds the answer by this key.
    # Prefect accepts lower case only: with capitals it loses the form.
    key = f"approve-{runtime.flow_run.id}-{candidate.champion or 0}"
    return suspend_flow_run(wait_for_input=form, timeout=_APPROVAL_S, key=key)


@flow(name="rollback")
def rollback(
    model: str = "food42",
    places: Places = Places(),  # noqa: B008  # frozen
    reason: str = "",
) -> int:
    """Make the version serve that served before; a running server follows by itself."""
    return tasks.rollback(model, places.repository, reason)
