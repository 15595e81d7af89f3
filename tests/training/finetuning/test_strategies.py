"""The search among strategies: who is dropped, who is recommended, and what a tie is."""

import json
from pathlib import Path

import numpy as np
import pytest

from training.config import TrainConfig
from training.errors import RunError
from training.finetuning.search import STRATEGIES, Job, halvings, search
from training.finetuning.strategies import summarise
from training.reports.gain import gain_between


def test_rungs_triple_the_epochs_and_halve_the_field():
    """Seven strategies meet in two rungs; two go straight to the finals."""
    assert [(4, 4), (12, 2)] == halvings(36, 7)
    assert [] == halvings(10, 2)
    assert [(1, 4), (1, 2)] == halvings(3, 7)


def planted(run_dir: Path, right: int, time_s: float, strategy: str = "full") -> None:
    """Write a finished run on 100 photos that gets the first `right` of them right."""
    run_dir.mkdir(parents=True)
    weights = "" if strategy == "scratch" else "0" * 64
    config = TrainConfig.from_dict({"transfer": {"strategy": strategy, "weights": weights}})
    targets = np.arange(100) % 2
    answers = np.where(np.arange(100) < right, targets, 1 - targets)
    (run_dir / "config.json").write_text(json.dumps({
        "config": config.to_dict(), "labels": ["a", "b"], "dataset_hash": "d", "cache": "c",
    }))  # fmt: skip
    epoch = {"epoch": 1, "train_loss": 1.0, "val_loss": 1.0, "val_top1": right / 100,
             "learning_rate": 0.1, "photos_per_s": 1.0, "train_s": time_s}  # fmt: skip
    (run_dir / "metrics.jsonl").write_text(json.dumps(epoch) + "\n")
    (run_dir / "result.json").write_text(json.dumps({"test_top1": None}))
    np.savez(
        run_dir / "predictions-val.npz", probabilities=np.eye(2, dtype=np.float32)[answers],
        targets=targets, files=np.array([f"{i:03}.jpg" for i in range(100)]),
    )  # fmt: skip


def test_the_search_drops_the_worse_half_and_recommends_the_most_accurate(tmp_path):
    """Of seven, two and the one to keep come to the finals; 90 and 89 of 100 are a tie."""
    known = {"full": 90, "linear-probe": 89, "lp-ft": 70, "gradual": 60, "scratch": 20}

    def run_all(jobs):
        for job in jobs:
            seconds = 1.0 if job.strategy == "linear-probe" else 50.0
            planted(job.run_dir, known.get(job.strategy, 30), seconds, job.strategy)
            (job.run_dir / "checkpoints").mkdir()
            (job.run_dir / "checkpoints" / "step-00000001.safetensors").touch()

    jobs = search(tmp_path, 9, [0, 1, 2], run_all, keep=("scratch",))
    study = summarise(jobs)

    finals = [row.strategy for row in study.rows if row.stage == "final"]
    assert ["full", "linear-probe", "scratch"] == finals
    assert set(STRATEGIES) == {row.strategy for row in study.rows}
    assert "full" == study.recommended.strategy
    assert ["linear-probe"] == study.ties
    verdicts = {row.strategy: row.verdict for row in study.rows}
    assert "tie, and cheaper to train" == verdicts["linear-probe"]
    assert "worse" == verdicts["scratch"]
    assert "dropped after rung-1" == verdicts["last-layers"]
    assert "dropped after rung-2" == verdicts["lp-ft"]
    # Of a linear probe only the head is trained: 512 weights and a bias for each of two classes.
    assert 2 * 512 + 2 == next(r for r in study.rows if r.strategy in study.ties).num_trained
    # Trials never go on, so their checkpoints are removed; the finalists keep theirs.
    assert not list(tmp_path.glob("rung-*/*/checkpoints/step-*"))
    assert 3 * 3 == len(list(tmp_path.glob("final/*/checkpoints/step-*")))
    label, recall, others = study.classes[0]
    assert ("a", 0.9) == (label, recall)
    assert {"linear-probe", "scratch"} == {name for name, _ in others}


def test_two_seeds_are_too_few_to_tell(tmp_path):
    """What two seeds cannot part is no tie; what they can, is worse."""
    jobs = []
    for seed in (0, 1):
        for name, right in (("full", 90), ("gradual", 89), ("scratch", 20)):
            run_dir = tmp_path / f"{name}-{seed}"
            planted(run_dir, right, 10.0, name)
            jobs.append(Job(strategy=name, epochs=1, seed=seed, stage="final", run_dir=run_dir))

    verdicts = {row.strategy: row.verdict for row in summarise(jobs).rows}

    assert {
        "full": "recommended", "gradual": "too few seeds to tell", "scratch": "worse",
    } == verdicts  # fmt: skip


def test_a_difference_is_paired_and_holds_the_spread_of_the_seeds():
    """Ten photos gained and none lost is beyond chance; seeds that disagree make it a tie."""
    base = np.zeros((1, 100), bool)
    better = base.copy()
    better[0, :10] = True
    varied = np.zeros((2, 100), bool)
    varied[0, :60] = True

    assert gain_between(base, better).certain
    assert 0.1 == pytest.approx(gain_between(base, better).value)
    assert gain_between(base, base).low < 0 < gain_between(base, base).high
    assert not gain_between(base.repeat(2, 0), varied).certain


def test_unfinished_jobs_have_no_table(tmp_path):
    """A run without predictions is named, with what to do."""
    planted(tmp_path / "r", 50, 1.0)
    (tmp_path / "r" / "predictions-val.npz").unlink()

    with pytest.raises(RunError, match="no predictions yet"):
        summarise([Job(strategy="full", epochs=1, seed=0, stage="", run_dir=tmp_path / "r")])
