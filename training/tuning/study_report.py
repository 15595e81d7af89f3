"""A study → `report.html`, `ranking.json` and `plots/`, from its storage and run directories."""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from training.errors import RunError
from training.files import write_text
from training.pages import page
from training.tuning import study_plots
from training.tuning.final import Final
from training.tuning.rungs import rungs
from training.tuning.search import Outcome, outcome, ranking, saved_share
from training.tuning.storages import storage_of, url_of
from training.tuning.study import Plan, read_plan

_FEW = 5
"""With fewer complete trials the report does not say which settings mattered."""


def write(folder: Path, study: optuna.Study, final: Final | None = None) -> Path:
    """Write the page of a study, finished or under way; return its path.

    Raises:
        RunError: The folder holds no study, or none of its trials has ended.
    """
    plan = read_plan(folder)
    trials = study.get_trials(deepcopy=False)
    found = ranking(trials)
    if not found:
        raise RunError(f"no trial of {folder} has ended yet; wait for the first")
    lines = {one.number: _curve(folder / one.run) for one in found}
    plots = folder / "plots"
    figures = [study_plots.history(found, plots), study_plots.curves(found, lines, plots)]
    mattered = importances(study)
    if mattered:
        figures.append(study_plots.importances(mattered, plots))
    if any(one.params for one in found):
        figures.append(study_plots.parallel(found, plots))
    path = folder / "final.json"
    if final is not None:
        write_text(path, json.dumps(final.to_dict(), indent=2))
    numbers = summary(plan, [outcome(trial) for trial in trials])
    write_text(folder / "ranking.json", json.dumps(
        {**numbers, "importances": mattered, "trials": [one.to_dict() for one in found]},
        ensure_ascii=False, indent=2,
    ))  # fmt: skip
    context = {
        "plan": plan, "found": found, "figures": figures, "numbers": numbers, "folder": folder,
        "rungs": rungs(plan.epochs) if plan.pruning else (), "settings": _settings(found),
        "importances": mattered, "few": _FEW,
        "final": json.loads(path.read_text("utf-8")) if path.is_file() else None,
    }  # fmt: skip
    out = folder / "report.html"
    page.write("study.html.j2", out, context)
    return out


def write_from(folder: Path, storage: str | None) -> Path:
    """Write the page of a study by its folder, and its storage if that is not in the folder.

    Raises:
        RunError: The folder or the storage has no such study.
        ConfigError: The storage cannot be reached.
    """
    plan = read_plan(folder)
    try:
        study = optuna.load_study(study_name=plan.name, storage=storage_of(url_of(storage, folder)))
    except KeyError:
        raise RunError(f"that storage has no study {plan.name}; name its --storage") from None
    return write(folder, study)


def summary(plan: Plan, found: Sequence[Outcome]) -> dict[str, Any]:
    """Return the main numbers of a study; accuracies and shares are fractions."""
    done = [one for one in found if one.state in ("complete", "pruned")]
    complete = [one for one in done if one.state == "complete"]
    best = max(complete, key=lambda one: one.value or 0.0, default=None)
    baseline = next((one for one in complete if one.recipe == "baseline"), None)
    spent = sum(one.epochs + one.previews for one in done)
    seconds = sum(one.seconds or 0.0 for one in done)
    return {
        "study": plan.name,
        "complete": len(complete),
        "pruned": len(done) - len(complete),
        "running": sum(one.state == "running" for one in found),
        "best_trial": best and best.number,
        "best": best and best.value,
        "baseline": baseline and baseline.value,
        "epochs_spent": spent,
        "epochs_all": len(done) * plan.epochs,
        "saved_share": saved_share(done, plan.epochs),
        "seconds": seconds,
        # The epochs that were not trained, at the mean time of those that were.
        "seconds_saved": seconds / spent * (len(done) * plan.epochs - spent) if spent else 0.0,
    }


def importances(study: optuna.Study) -> dict[str, float]:
    """Return how much each setting sets the best complete trials apart, as shares that sum to 1.

    By PED-ANOVA (Watanabe et al. 2023) for settings that depend on others (arXiv:2601.20800).
    Empty with too few trials.
    """
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < _FEW:
        return {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # The best tenth of a few trials would be a single one, and show its luck.
            best = min(0.5, max(0.1, _FEW / len(complete)))
            evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=best)
            found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    except (ValueError, RuntimeError):
        # All trials have the same value.
        return {}
    return {name: float(share) for name, share in found.items()}


def _curve(run_dir: Path) -> list[float]:
    try:
        lines = (run_dir / "metrics.jsonl").read_text("utf-8").splitlines()
        return [float(json.loads(line)["val_top1"]) for line in lines if line.strip()]
    except (OSError, ValueError, KeyError):
        return []


def _settings(found: Sequence[Outcome]) -> list[str]:
    names: list[str] = []
    for one in found:
        names += [n for n in one.params if n not in names]
    return names
