"""A study: one search, its storage, and which worker runs which trial.

runs/<study>/study.json      what every worker must agree on, written once
runs/<study>/study.db        Optuna's storage, unless --storage names another
runs/<study>/trial-0007/     a run directory each

Workers share the storage, which knows the trials and their results, and locks in the study's
folder. A trial belongs to the worker that holds its lock; the system releases the lock when the
process ends in any way. So if a trial is running by the storage and its lock is free, its worker
was killed, and the next worker continues it from its checkpoint. Several machines must share the
folder; a worker that sees another one is refused.
"""

import contextlib
import dataclasses
import fcntl
import json
import re
import uuid
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, TrialState

from training.config import TrainConfig
from training.errors import ConfigError, RunError
from training.files import write_text
from training.recipes import recipe
from training.runs import run_directory
from training.tuning import storages
from training.tuning.space import Space

if TYPE_CHECKING:
    from optuna.samplers import TPESampler


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What every worker of a study must agree on; `study.json` holds it."""

    name: str
    recipe: str
    """The recipe of settings that are not searched."""
    epochs: int
    image_size: int
    seed: int
    """Of the search and of every trial, so that trials differ only in their settings."""
    pruning: bool
    dataset_hash: str
    space: Mapping[str, Any]
    judging: int | None = None
    """Validation photos that are kept to judge the finals; None where there is a test split."""

    @property
    def recipes(self) -> tuple[str, ...]:
        """Return the recipes that are the first trials: the baseline, then the plan's own."""
        return tuple(dict.fromkeys(("baseline", self.recipe)))

    def base(self, name: str | None = None) -> TrainConfig:
        """Return a recipe, by default the plan's, at the study's epochs, image size and seed."""
        budget = {"epochs": self.epochs, "image_size": self.image_size, "seed": self.seed}
        return recipe(name or self.recipe).with_overrides(budget)


@dataclasses.dataclass(kw_only=True, slots=True)
class Claim:
    """A trial that no other process runs until `release`."""

    trial: optuna.trial.Trial
    config: TrainConfig
    run_dir: Path
    is_recipe: bool
    """Whether it is one of the plan's recipes, which others are compared with: never pruned."""
    lock: IO[str]

    def release(self) -> None:
        """Release the trial; without a result, another worker continues it."""
        self.lock.close()


class Study:
    """An open study, as one worker sees it."""

    def __init__(self, plan: Plan, folder: Path, study: optuna.Study, space: Space) -> None:
        self.plan = plan
        self.folder = folder
        self.optuna = study
        self.space = space

    def claim(self, trials: int, threads: int = 0) -> Claim | None:
        """Return a trial to run: one that a killed worker left, or else the next of `trials`.

        None if other workers run all that is left; `finished` tells whether they are done.

        Raises:
            RunError: A trial's folder is locked, though the trial never began.
        """
        with _held(self.folder / ".study-lock"):
            known = self.trials()
            for left in (t for t in known if t.state == TrialState.RUNNING):
                lock = self._lock(left.number)
                if lock is None:
                    continue
                # Its worker may have reported the result and released it since it was listed.
                if self.trials()[left.number].state == TrialState.RUNNING:
                    return self._claimed(left.number, left._trial_id, lock, threads)
                lock.close()
            if len(_begun(known)) >= trials:
                return None
            waiting = [t.number for t in known if t.state == TrialState.WAITING]
            number = min(waiting, default=len(known))
            lock = self._lock(number)
            if lock is None:
                raise RunError(f"{self._run_dir(number)} is held, though its trial never began")
            self.optuna.sampler = _sampler(self.plan.seed, number)
            asked = self.optuna.ask()
            return self._claimed(asked.number, asked._trial_id, lock, threads)

    def finished(self, trials: int) -> bool:
        """Return whether every trial has its result."""
        begun = _begun(self.trials())
        return len(begun) >= trials and all(trial.state.is_finished() for trial in begun)

    def trials(self) -> list[FrozenTrial]:
        """Return every trial as the storage has it, by number."""
        return self.optuna.get_trials(deepcopy=False)

    def _claimed(self, number: int, trial_id: int, lock: IO[str], threads: int) -> Claim:
        # The trial's own sampler: a trial that was left gets the same parameters again.
        self.optuna.sampler = _sampler(self.plan.seed, number)
        trial = optuna.trial.Trial(self.optuna, trial_id)
        recipe_name, run_dir = trial.user_attrs.get("recipe"), self._run_dir(number)
        config = self.space.suggest(trial)
        if recipe_name is not None:
            # The recipe itself: the space may lack some of its values.
            config = self.plan.base(recipe_name)
        if (about := run_directory.read(run_dir)) is not None:
            config = TrainConfig.from_dict(about["config"])
        else:
            config = dataclasses.replace(config, threads=threads)
        trial.set_user_attr("run", run_dir.name)
        return Claim(
            trial=trial, config=config, run_dir=run_dir, is_recipe=bool(recipe_name), lock=lock
        )

    def _run_dir(self, number: int) -> Path:
        return self.folder / f"trial-{number:04}"

    def _lock(self, number: int) -> IO[str] | None:
        run_dir = self._run_dir(number)
        run_dir.mkdir(exist_ok=True)
        lock = (run_dir / ".claim").open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return None
        return lock


def open_study(
    plan: Plan, runs_dir: Path, storage: str | None, space: Space, cache: Path | None = None
) -> Study:
    """Begin a study, or join one that began with the very same plan.

    Where `cache` lies is written down, so that the study goes on with its photos.

    Raises:
        ConfigError: The study began with another plan (the message lists what differs), its other
            workers use another folder, or the storage cannot be reached.
    """
    if not re.fullmatch(r"[\w.-]+", plan.name) or plan.name.startswith("."):
        raise ConfigError(f"--study {plan.name!r}: give it a name of letters, digits, - and _")
    folder = runs_dir / plan.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write to {folder}: {error.strerror}") from error
    with _held(folder / ".study-lock"):
        token = _agreed(plan, folder, cache)
        study = storages.open_or_create(plan.name, storages.url_of(storage, folder))
        theirs = study.user_attrs.get("folder")
        if theirs is None:
            if any(folder.glob("trial-*")):
                raise ConfigError(
                    f"{folder} has trials, and this storage has none of them: every worker of a"
                    " study names the same --storage (or HANSANG_STORAGE); or choose another"
                    " --study"
                )
            study.set_user_attr("plan", dataclasses.asdict(plan))
            for name in plan.recipes:
                study.enqueue_trial(
                    space.nearest(plan.base(name)), user_attrs={"recipe": name},
                    # A worker that was killed before the next line enqueued it already.
                    skip_if_exists=True,
                )  # fmt: skip
            # Last, so that after a kill before this line the next worker begins the study again.
            study.set_user_attr("folder", token)
        elif theirs != token:
            raise ConfigError(
                f"the study {plan.name} in this storage has its run directories elsewhere, not in"
                f" {folder}: every worker must see the same folder (--runs-dir), on several"
                " machines a shared one; or choose another --study"
            )
    return Study(plan, folder, study, space)


def _agreed(plan: Plan, folder: Path, cache: Path | None) -> str:
    """Write the plan, or check that the existing one is the same; return the token in its file."""
    path = folder / "study.json"
    wanted = json.loads(json.dumps(dataclasses.asdict(plan)))
    try:
        there = json.loads(path.read_text("utf-8"))
        token, old = there.pop("token"), there
    except FileNotFoundError:
        token = uuid.uuid4().hex
        about = {"token": token, "cache": cache and str(cache.resolve()), **wanted}
        write_text(path, json.dumps(about, ensure_ascii=False, indent=2))
        return token
    except (ValueError, KeyError) as error:
        raise ConfigError(f"{path} is damaged: {error!r}") from error
    unsaid = {"space": "the space is another", "dataset_hash": "the photos are others"}
    differences = [
        unsaid.get(name) or f"{name}: {old.get(name)} there, {wanted[name]} now"
        for name in wanted
        if wanted[name] != old.get(name)
    ]  # fmt: skip
    if differences:
        raise ConfigError(
            f"the study {plan.name} in {folder} began otherwise: {'; '.join(differences)}."
            " Give what it began with, or choose another --study"
        )
    return str(token)


def read_plan(folder: Path) -> Plan:
    """Return the plan of a study's folder.

    Raises:
        RunError: There is no study, or its plan is damaged.
    """
    try:
        values = json.loads((folder / "study.json").read_text("utf-8"))
        values.pop("token")
        values.pop("cache", None)
        return Plan(**values)
    except FileNotFoundError:
        raise RunError(f"{folder} is no study: it has no study.json") from None
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{folder}/study.json is damaged: {error!r}") from error


def begun_with(folder: Path) -> dict[str, Any] | None:
    """Return the `cache` and the `dataset_hash` that a study began with; None if none began.

    Raises:
        RunError: A file of it is damaged.
    """
    try:
        there = json.loads((folder / "study.json").read_text("utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise RunError(f"{folder}/study.json is damaged: {error!r}") from error
    if there.get("cache"):
        return {"cache": there["cache"], "dataset_hash": there.get("dataset_hash")}
    # Studies of before did not write it down, but their trials did.
    return run_directory.begun_in(folder)


def _begun(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials that count: none that wait, and none that somebody marked as failed."""
    return [t for t in trials if t.state not in (TrialState.FAIL, TrialState.WAITING)]


def _sampler(seed: int, number: int) -> "TPESampler":
    """Return the sampler of a trial, a function of the study's seed and the trial's number."""
    import numpy as np

    with warnings.catch_warnings():
        # Settings that depend on others need `group`, which has been experimental for years.
        warnings.simplefilter("ignore", ExperimentalWarning)
        return optuna.samplers.TPESampler(
            multivariate=True, group=True,
            # A trial that runs counts as a bad one, so that workers try different settings.
            constant_liar=True,
            seed=int(np.random.SeedSequence([seed, number]).generate_state(1)[0]),
        )  # fmt: skip


@contextlib.contextmanager
def _held(path: Path) -> Iterator[None]:
    """Hold a lock that all workers of a study share."""
    with path.open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
