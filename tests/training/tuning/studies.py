"""Small studies, opened and searched without training."""

from pathlib import Path

from training.recipes import recipe
from training.tuning.space_file import read_space
from training.tuning.study import Plan, Study, open_study


def study_of(runs_dir: Path, storage: str | None = None, **changed: object) -> Study:
    """Open a study of four epochs."""
    values = {"name": "s", "recipe": "scratch", "epochs": 4, "image_size": 32, "seed": 3,
              "pruning": True, "dataset_hash": "h"} | changed  # fmt: skip
    base = recipe("scratch").with_overrides({"epochs": values["epochs"], "image_size": 32})
    space = read_space(str(values.pop("space", "default")), base)
    return open_study(Plan(**values, space=space.to_dict()), runs_dir, storage, space)


def told(study: Study, trials: int) -> list[dict[str, object]]:
    """Do trials whose value is a function of their settings; return what was tried."""
    while (claim := study.claim(trials)) is not None:
        study.optuna.tell(claim.trial, claim.config.label_smoothing)
        claim.release()
    return [trial.params for trial in study.trials()]
