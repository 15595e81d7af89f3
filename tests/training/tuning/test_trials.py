"""Trials that are trained: ranked, pruned at a rung, given up when they diverge or do not fit."""

import json
from types import SimpleNamespace

import pytest
import torch

from tests.thin import thin_network
from tests.training.tuning.studies import study_of
from training.data.cache import DatasetCache
from training.loop.learner import Learner
from training.tuning import search
from training.tuning.search import best_run, outcome, ranking, saved_share, work
from training.tuning.study import Study

pytestmark = pytest.mark.usefixtures("thin")


@pytest.fixture(scope="session")
def searched(cache: DatasetCache, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A finished study of five trials on the drawn dishes; one of them diverges."""
    runs_dir = tmp_path_factory.mktemp("searched")
    small = runs_dir / "small.toml"
    small.write_text("batch_size = [16, 24]")
    study = study_of(runs_dir, dataset_hash=cache.dataset_hash, space=small)
    study.optuna.enqueue_trial({"optimizer.name": "sgd", "optimizer.lr@sgd": 1e30, "batch_size": 16,
                                "scheduler.name": "none"})  # fmt: skip
    with thin_network(), pytest.warns(UserWarning, match="out of range"):
        work(study, cache, trials=5, device="cpu", threads=1)
    return study


def test_a_search_ranks_prunes_and_saves(searched):
    """Complete trials come first; what was pruned stopped at a rung and freed its epochs."""
    found = ranking(searched.trials())
    assert 5 == len(found)
    assert {"baseline", "scratch"} == {one.recipe for one in found if one.recipe}
    complete = [one for one in found if one.state == "complete"]
    assert all(4 == one.epochs for one in complete)
    assert all(one.state == "complete" for one in found if one.recipe)
    assert [one.value for one in complete] == sorted((o.value for o in complete), reverse=True)
    pruned = [one for one in found if one.state == "pruned"]
    assert pruned
    for one in pruned:
        path = searched.folder / one.run / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.is_file() else []
        assert len(lines) == one.epochs < 4
        # Epochs are timed in its metrics; judging came on top.
        trained_s = sum(json.loads(line)["train_s"] for line in lines)
        assert one.seconds > trained_s or one.epochs == 0
    spent = sum(one.epochs + one.previews for one in found)
    assert 1 - spent / 20 == saved_share(found, 4)
    best, run_dir = best_run(searched.optuna, searched.folder)
    assert best == found[0]
    assert best.value == json.loads((run_dir / "result.json").read_text())["val_top1"]


def test_a_trial_that_falls_behind_is_given_up_at_its_rung(cache, tmp_path, monkeypatch):
    """Of three the second best goes no further, and the recipe goes on though it is the worst."""
    study = study_of(tmp_path)
    worth = (0.1, 0.5, 0.3, 0.6)

    def trains(config, cache, run_dir, *, after_epoch, **options):
        (run_dir / "checkpoints").mkdir()
        value = worth[int(run_dir.name[-4:])]
        for epoch in range(1, 5):
            after_epoch([{}] * epoch, lambda: value)
        return SimpleNamespace(epochs=4, val_top1=value)

    monkeypatch.setattr(search, "train", trains)
    done = work(study, cache, trials=4, device="cpu", threads=1)
    assert ["complete", "complete", "pruned", "complete"] == [one.state for one in done]
    assert [4, 4, 1, 4] == [one.epochs for one in done]
    assert (0.3, None) == (done[2].value, done[2].why)
    assert 1 - (3 * 6 + 2) / 16 == saved_share(done, 4)


def test_a_trial_that_diverges_is_given_up_and_says_why(searched):
    """Its loss is not finite: the search goes on, and learns to keep away."""
    diverged = outcome(searched.trials()[2])
    assert "pruned" == diverged.state
    assert "not finite" in diverged.why
    assert 0.0 == diverged.value
    assert 0 == diverged.previews


def test_a_trial_that_fits_no_memory_is_given_up(cache, tmp_path, monkeypatch):
    """Its batch is its settings' fault: the search goes on, and no other worker takes it up."""
    study = study_of(tmp_path, dataset_hash=cache.dataset_hash)

    def full(self: Learner, *rest: object, **options: object) -> None:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(Learner, "step", full)
    done = work(study, cache, trials=1, device="cpu", threads=1)
    assert ("pruned", 0, 0) == (done[0].state, done[0].epochs, done[0].previews)
    assert "memory" in done[0].why
    assert study.finished(1)


def test_finished_trials_keep_two_checkpoints_at_most(searched):
    """Forty trials must not fill a disk: of each the last and the best checkpoint stay."""
    for one in ranking(searched.trials()):
        files = {path.name for path in (searched.folder / one.run / "checkpoints").iterdir()}
        assert len([name for name in files if name.startswith("step-")]) <= 1


def test_a_finished_study_has_nothing_left_to_do(searched, cache):
    """The same call again trains nothing; more trials go on where it ended."""
    before = searched.trials()
    assert [] == work(searched, cache, trials=5, device="cpu", threads=1)
    assert before == searched.trials()
