"""The strategies of fine-tuning, and the search among them by successive halving.

every strategy, a few epochs → the better half, more epochs → finalists, all epochs, every seed

Each job is an ordinary run directory in the study's folder:

<study>/rung-1/<strategy>    <study>/rung-2/<strategy>    <study>/final/<strategy>-seed<n>
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from training.config import Strategy, TrainConfig
from training.errors import ConfigError
from training.model.pretrained import Start
from training.recipes import recipe
from training.runs.run_record import RunRecord

STRATEGIES: tuple[str, ...] = get_args(Strategy)

_OWN: dict[str, dict[str, Any]] = {
    # A head on frozen features can learn much faster (docs/notes/experiments.md).
    "linear-probe": {"optimizer.lr": 1.0},
    "gradual": {"transfer.layer_decay": 0.8},
}
"""Settings of a strategy of its own. The others learn at the recipe's rate: a low one, as is custom
for pretrained weights, lost 6 points in as many epochs."""


def config_for(
    strategy: str,
    start: Start,
    *,
    epochs: int | None = None,
    image_size: int | None = None,
    seed: int = 0,
    overrides: Mapping[str, Any] | None = None,
) -> TrainConfig:
    """Return the settings of a strategy; the default side is the one that the weights learnt at.

    Raises:
        ConfigError: There is no such strategy or setting; the message lists those that there are.
    """
    if strategy not in STRATEGIES:
        raise ConfigError(f"no strategy {strategy!r}; there are auto, {', '.join(STRATEGIES)}")
    base = recipe("finetune")
    values = {
        "transfer": {
            **base.to_dict()["transfer"],
            "strategy": strategy,
            "weights": "" if strategy == "scratch" else start.sha256,
        },
        "epochs": epochs or base.epochs,
        "image_size": image_size or start.image_size or base.image_size,
        "seed": seed,
        "recipe": "finetune",
    }
    config = TrainConfig.from_dict({**base.to_dict(), **values})
    return config.with_overrides({**_OWN.get(strategy, {}), **(overrides or {})})


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of a study."""

    strategy: str
    epochs: int
    seed: int
    stage: str
    """`rung-1`, `rung-2`, …, `final`; empty for a run outside a study."""
    run_dir: Path


def halvings(epochs: int, num_strategies: int) -> list[tuple[int, int]]:
    """Return (epochs, survivors) of each rung before the finals.

    By successive halving (Jamieson and Talwalkar 2016): epochs triple from rung to rung, and half
    of the strategies go on, until two are left.

    >>> halvings(36, 7)
    [(4, 4), (12, 2)]
    """
    found: list[tuple[int, int]] = []
    left = num_strategies
    while left > 2:
        left = math.ceil(left / 2)
        found.append((0, left))
    return [
        (max(1, round(epochs / 3 ** (len(found) - index))), survivors)
        for index, (_, survivors) in enumerate(found)
    ]


def search(
    study: Path,
    epochs: int,
    seeds: Sequence[int],
    run_all: Callable[[Sequence[Job]], object],
    *,
    strategies: Sequence[str] = STRATEGIES,
    keep: Collection[str] = (),
) -> list[Job]:
    """Run a study; return its jobs, rung by rung.

    Args:
        study: Its folder.
        epochs: Epochs of the finals.
        seeds: Seeds of the finals; rungs have the first.
        run_all: Must finish the run of each job, and keep those that are finished already.
        strategies: The strategies to try.
        keep: Strategies that are never dropped.
    """
    left = list(strategies)
    jobs: list[Job] = []
    for number, (rung_epochs, survivors) in enumerate(halvings(epochs, len(left)), 1):
        stage = f"rung-{number}"
        trials = [
            Job(strategy=name, epochs=rung_epochs, seed=seeds[0], stage=stage,
                run_dir=study / stage / name)
            for name in left
        ]  # fmt: skip
        run_all(trials)
        jobs += trials
        ranked = sorted(trials, key=_rank)
        best = [job.strategy for job in ranked[:survivors]]
        left = [name for name in left if name in best or name in keep]
        for job in trials:
            _drop_checkpoints(job.run_dir)
    finals = [
        Job(strategy=name, epochs=epochs, seed=seed, stage="final",
            run_dir=study / "final" / f"{name}-seed{seed}")
        for seed in seeds
        for name in left
    ]  # fmt: skip
    run_all(finals)
    return jobs + finals


def single(run_dir: Path, strategy: str, epochs: int, seeds: Sequence[int]) -> list[Job]:
    """Return the jobs of one strategy outside a study: one for each seed."""
    return [
        Job(strategy=strategy, epochs=epochs, seed=seed, stage="",
            run_dir=run_dir if len(seeds) == 1 else run_dir.with_name(f"{run_dir.name}-seed{seed}"))
        for seed in seeds
    ]  # fmt: skip


def is_finished(run_dir: Path) -> bool:
    """Return whether a run has its result."""
    return (run_dir / "result.json").is_file()


def _rank(job: Job) -> tuple[float, float]:
    best = RunRecord.open(job.run_dir).best
    return -best["val_top1"], best["val_loss"]


def _drop_checkpoints(run_dir: Path) -> None:
    """Remove the checkpoints that only resuming needs; the best epoch stays."""
    for path in (run_dir / "checkpoints").glob("step-*.safetensors"):
        path.unlink(missing_ok=True)
