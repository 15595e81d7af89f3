"""A run directory as it is read: what reports, comparisons and trackers are made from."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.errors import RunError
from training.evaluation.metrics import Predictions
from training.runs import run_directory

NEEDED = ("epoch", "train_loss", "val_loss", "val_top1", "learning_rate", "photos_per_s")
"""What every line of `metrics.jsonl` must have; other figures are optional."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """What a run directory holds."""

    path: Path
    config: dict[str, Any]
    """The settings, nested as in `config.json`."""
    labels: tuple[str, ...]
    dataset_hash: str
    cache: Path
    """Where the dataset cache was; it may no longer be there."""
    versions: dict[str, str]
    git_commit: str
    history: tuple[dict[str, Any], ...]
    """A line of `metrics.jsonl` each; at least one."""
    result: dict[str, Any] | None
    """`result.json`; None while the run is under way."""
    val: Predictions | None
    test: Predictions | None

    @property
    def name(self) -> str:
        """Return the run's ID: the name of its folder."""
        return self.path.resolve().name

    @property
    def best(self) -> dict[str, Any]:
        """Return the line of the best epoch."""
        return best_of(self.history)

    @property
    def temperature(self) -> float | None:
        """Return the temperature of a finished run; None while it is under way."""
        found = (self.result or {}).get("temperature")
        return float(found) if found else None

    @classmethod
    def open(cls, run_dir: Path) -> "RunRecord":
        """Read a run directory, also of a run that is under way.

        Raises:
            RunError: There is no run, its first epoch is not finished, or a file is damaged.
        """
        about = run_directory.read(run_dir)
        if about is None:
            raise RunError(f"{run_dir} is no run directory: it has no config.json")
        history = _history(run_dir / "metrics.jsonl")
        try:
            labels = tuple(about["labels"])
            return cls(
                path=run_dir,
                config=dict(about["config"]),
                labels=labels,
                dataset_hash=about["dataset_hash"],
                cache=Path(about["cache"]),
                versions=dict(about.get("versions", {})),
                git_commit=about.get("git_commit", ""),
                history=history,
                result=_result(run_dir / "result.json"),
                val=Predictions.load(run_dir, "val", len(labels)),
                test=Predictions.load(run_dir, "test", len(labels)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"{run_dir}/config.json is damaged: {error!r}") from error


def best_of(history: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the best epoch's line: highest top-1, of equal ones lowest loss, then the first."""
    # max keeps the first of equal ones.
    return max(history, key=lambda epoch: (epoch["val_top1"], -epoch["val_loss"]))


def _history(path: Path) -> tuple[dict[str, Any], ...]:
    try:
        lines = path.read_text("utf-8").splitlines()
        history = tuple(json.loads(line) for line in lines if line.strip())
        missing = [name for epoch in history for name in NEEDED if name not in epoch]
    except FileNotFoundError:
        history, missing = (), []
    except (ValueError, TypeError) as error:
        raise RunError(f"{path} is damaged: {error}") from error
    if missing:
        raise RunError(f"{path} is damaged: a line has no {missing[0]}")
    if not history:
        raise RunError(f"{path.parent} has no finished epoch yet; wait for the first")
    return history


def _result(path: Path) -> dict[str, Any] | None:
    try:
        result: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise RunError(f"{path} is damaged: {error}") from error
    return result
