"""A worker: runs trials of a study until none is left.

claim ─► train (resumes a trial that was left) ─► annealed preview at each rung ─► go on, or prune
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from terminal import Progress, no_progress, say
from training.data.cache import DatasetCache
from training.data.loader import sharing
from training.errors import SettingsError, StoppedError
from training.loop.trainer import train
from training.model.device import device_for
from training.runs import checkpoint
from training.tuning.policies import augmentation
from training.tuning.rungs import rungs
from training.tuning.study import Claim, Study

_POLL_S = 2.0
_PREVIEW_S = "judged_s"
"""User attribute of a trial: seconds spent on its annealed previews."""


class _PrunedError(Exception):
    """The trial fell behind at a rung."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of a trial."""

    number: int
    state: str
    """complete, pruned, running, waiting or failed."""
    value: float | None
    """Validation top-1, a fraction: of the best epoch; of a pruned trial, the annealed preview."""
    epochs: int
    """Trained."""
    previews: int
    """Epochs spent on annealed previews at rungs."""
    recipe: str | None
    """The recipe that it is, if it is one of those that the study began with."""
    run: str
    """Name of its run directory."""
    params: Mapping[str, Any]
    rungs: Mapping[int, float]
    """Epoch → annealed preview, a top-1."""
    why: str | None
    """Why its settings could not be trained with; None if they could."""
    seconds: float | None
    """Spent on it, previews included, without what a killed worker did since its checkpoint."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, as `ranking.json` holds it."""
        # The file's name for previews is older than the term.
        return {"probes" if key == "previews" else key: v for key, v in asdict(self).items()}


def outcome(trial: FrozenTrial) -> Outcome:
    """Return what became of a trial, as the storage has it."""
    attrs = trial.user_attrs
    return Outcome(
        number=trial.number,
        state={"fail": "failed"}.get(trial.state.name.lower(), trial.state.name.lower()),
        value=trial.value if trial.state != TrialState.FAIL else None,
        epochs=attrs.get("epochs", 0),
        # Settings that cannot be trained with were reported as the worst, without a preview.
        previews=len(trial.intermediate_values) - ("why" in attrs),
        recipe=attrs.get("recipe"),
        run=attrs.get("run", ""),
        params=dict(trial.params),
        rungs=dict(trial.intermediate_values),
        why=attrs.get("why"),
        seconds=attrs.get("seconds"),
    )


def ranking(trials: Sequence[FrozenTrial]) -> list[Outcome]:
    """Return the finished trials: complete ones by value, then pruned ones by their last rung."""
    found = [outcome(trial) for trial in trials if trial.state.is_finished()]
    found = [one for one in found if one.state != "failed"]

    def key(one: Outcome) -> tuple[bool, int, float]:
        complete = one.state == "complete"
        return not complete, 0 if complete else -max(one.rungs, default=0), -(one.value or 0.0)

    return sorted(found, key=key)


def saved_share(found: Sequence[Outcome], epochs: int) -> float:
    """Return the part of all epochs that pruning saved, the cost of previews deducted."""
    spent = sum(one.epochs + one.previews for one in found)
    return 1 - spent / max(len(found) * epochs, 1)


def work(
    study: Study, cache: DatasetCache, *, trials: int, most: int | None = None,
    device: str = "auto", threads: int = 0, accept_changes: bool = False,
    should_stop: Callable[[], bool] = lambda: False, progress: Progress = no_progress,
) -> list[Outcome]:  # fmt: skip
    """Run trials until the study has `trials` results, those of other workers included.

    While other workers run the last trials, this one waits, and continues what a killed one left.

    Args:
        study: The study, which other workers may have open as well.
        cache: The photos.
        trials: Results that the study is to have in all.
        most: Trials that are run here at most; None has no limit.
        device: `auto`, `cuda` or `cpu`.
        threads: CPU threads of each trial.
        accept_changes: Go on with trials that began on another device or the like.
        should_stop: Is asked after each batch.
        progress: Is called with the study's epochs.

    Returns:
        What became of the trials that were run here.

    Raises:
        StoppedError: `should_stop` said so; the trial's checkpoint is saved.
        TrainingError: A trial cannot go on, and its settings are not the cause.
    """
    done: list[Outcome] = []
    options = {"device": device, "should_stop": should_stop, "accept_changes": accept_changes}
    learnt_from = cache.splits["train"].to_learn_from(augmentation("standard"))
    with sharing((learnt_from, cache.splits["val"]), device_for(device)):
        while len(done) != most and not study.finished(trials):
            if should_stop():
                raise StoppedError("stopped between two trials; the same command goes on")
            claim = study.claim(trials, threads)
            if claim is None:
                time.sleep(_POLL_S)
                continue
            try:
                _run(claim, study, cache, progress=_of_study(study, trials, progress), **options)
            finally:
                claim.release()
            done.append(outcome(study.trials()[claim.trial.number]))
    return done


def _run(
    claim: Claim, study: Study, cache: DatasetCache, **options: Any,
) -> None:  # fmt: skip
    """Train a trial, and tell the study its result."""
    trial, compared_at = claim.trial, rungs(study.plan.epochs) if study.plan.pruning else ()
    epochs = 0

    def after_epoch(history: Sequence[Mapping[str, Any]], preview: Callable[[], float]) -> None:
        nonlocal epochs
        epochs = len(history)
        if epochs not in compared_at:
            return
        known = study.trials()[trial.number].intermediate_values
        if epochs not in known:
            started_s = time.monotonic()
            value = preview()
            preview_s = trial.user_attrs.get(_PREVIEW_S, 0.0) + time.monotonic() - started_s
            trial.set_user_attr(_PREVIEW_S, preview_s)
            trial.report(value, epochs)
        if not claim.is_recipe and trial.should_prune():
            raise _PrunedError

    say(f"trial {trial.number}: {claim.run_dir}")
    try:
        result = train(
            claim.config, cache, claim.run_dir, after_epoch=after_epoch, **options,
        )  # fmt: skip
    except _PrunedError:
        _tell(study, claim, epochs, None)
    except SettingsError as error:
        # Reported as the worst, so that the search avoids such settings, and told as pruned, so
        # that no worker runs the trial again.
        trial.report(0.0, next((rung for rung in compared_at if rung > epochs), epochs + 1))
        trial.set_user_attr("why", str(error).partition(";")[0])
        _tell(study, claim, epochs, None)
    else:
        _tell(study, claim, result.epochs, result.val_top1)


def _tell(study: Study, claim: Claim, epochs: int, value: float | None) -> None:
    """Tell the study the result; of the checkpoints the best and the last are kept."""
    claim.trial.set_user_attr("epochs", epochs)
    claim.trial.set_user_attr("seconds", _seconds(claim))
    state = TrialState.PRUNED if value is None else TrialState.COMPLETE
    study.optuna.tell(claim.trial, value, state=state)
    checkpoint.prune(claim.run_dir / "checkpoints", kept=1)


def _seconds(claim: Claim) -> float:
    """Return the seconds spent on a trial: its epochs, by its metrics, and its previews."""
    try:
        lines = (claim.run_dir / "metrics.jsonl").read_text("utf-8").splitlines()
    except FileNotFoundError:
        lines = []
    parts = [(epoch := json.loads(line)).get("train_s", 0.0) + epoch.get("eval_s", 0.0)
             + epoch.get("save_s", 0.0) for line in lines]  # fmt: skip
    return float(sum(parts) + claim.trial.user_attrs.get(_PREVIEW_S, 0.0))


def _of_study(study: Study, trials: int, progress: Progress) -> Progress:
    """Return the progress of a trial as that of the study, in epochs."""
    epochs = study.plan.epochs
    found = [outcome(trial) for trial in study.trials()]
    finished = sum(one.state in ("complete", "pruned") for one in found)
    complete = [one for one in found if one.state == "complete"]
    best = max(complete, key=lambda one: one.value or 0.0, default=None)
    so_far = f", best {best.value:.1%} (trial {best.number})" if best and best.value else ""

    def report(done: int, total: int, note: str = "") -> None:
        trained = finished * epochs + done * epochs // max(total, 1)
        progress(trained, trials * epochs, f"{finished} of {trials} trials{so_far}; {note}")

    return report


def best_run(study: optuna.Study, folder: Path) -> tuple[Outcome, Path] | None:
    """Return the best trial that was trained to its end, and its run directory."""
    found = [one for one in ranking(study.get_trials(deepcopy=False)) if one.state == "complete"]
    return (found[0], folder / found[0].run) if found else None
