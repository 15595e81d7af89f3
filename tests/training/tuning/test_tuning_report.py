"""What a study and a comparison over seeds show, and what they do not claim."""

import json
import re
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.samplers import RandomSampler
from typer.testing import CliRunner

from training.ablation.arms import augmentation_arms, scheduler_arms, weakest_arm
from training.ablation.result import verdict
from training.config import TrainConfig
from training.errors import RunError
from training.recipes import recipe
from training.reports.gain import Gain, gain_of
from training.tuning.final import stretched
from training.tuning.search import Outcome
from training.tuning.study import Plan
from training.tuning.study_report import importances, summary


def answers(right: np.ndarray) -> dict[str, bool]:
    """Return answers by file."""
    return {f"{n}.jpg": bool(value) for n, value in enumerate(right)}


def test_an_interval_covers_what_is_true():
    """Of 200 comparisons over 3 seeds, true gain 5 points, some 95 % of the intervals hold it."""
    random, held = np.random.default_rng(0), 0
    for _ in range(200):
        hard = random.random(400) * 0.6 + 0.2
        luck = random.normal(0, 0.02, (3, 2))
        pairs = [
            (
                answers(random.random(400) < hard + luck[seed, 0]),
                answers(random.random(400) < hard + 0.05 + luck[seed, 1]),
            )
            for seed in range(3)
        ]
        found = gain_of(pairs)
        held += found.low <= 0.05 <= found.high
    assert held >= 184


def test_one_seed_has_the_photos_uncertainty_alone():
    """Hand-counted: 10 photos gained, 2 lost, of 100."""
    before = np.array([True] * 50 + [False] * 50)
    after = before.copy()
    after[:2] = False
    after[50:60] = True
    found = gain_of([(answers(before), answers(after))])
    assert pytest.approx(0.08) == found.value
    # Agresti and Min: 10.5 gained and 2.5 lost, of 102.
    half = 1.959964 * np.sqrt(13 - 8**2 / 102) / 102
    assert (pytest.approx(8 / 102 - half), pytest.approx(8 / 102 + half)) == (found.low, found.high)
    assert (1, 100) == (found.seeds, found.photos)


def test_runs_of_other_photos_are_not_compared():
    """Their difference would mean nothing."""
    with pytest.raises(RunError, match="other photos"):
        gain_of([(answers(np.ones(3)), answers(np.ones(4)))])


@pytest.mark.parametrize(
    ("low", "high", "seeds", "says"),
    [
        (0.01, 0.03, 3, "Even augmentation beats none (+2.0 points, "
         "95 % over photos: +1.0 to +3.0)."),
        (-0.01, 0.05, 3, "No difference shows between even augmentation and none (+2.0 points, "
         "95 % over photos: -1.0 to +5.0)."),
        (-0.01, 0.05, 1, "No difference shows between even augmentation and none (+2.0 points, "
         "95 % over photos: -1.0 to +5.0). One seed cannot tell: repeat with --seeds 3."),
        (-0.05, -0.01, 3, "None beats even augmentation (+3.0 points, "
         "95 % over photos: +1.0 to +5.0)."),
    ],
)  # fmt: skip
def test_the_conclusion_follows_from_the_interval(low, high, seeds, says):
    """It names a winner only where the interval leaves out no difference."""
    found = Gain(first=0.5, second=0.5, value=(low + high) / 2, low=low, high=high, seeds=seeds,
                 photos=100)  # fmt: skip
    assert says == verdict("even augmentation", "none", found)


def test_arms_differ_in_what_is_asked_alone():
    """Everything else of the configs is equal, so the budget is, too."""
    base = recipe("scratch").with_overrides({"epochs": 20, "image_size": 64})
    arms = [*augmentation_arms(base, base.augment), weakest_arm(base, base.augment, (1, 3))]
    assert ["none", "even", "weakest2"] == [arm.name for arm in arms]
    assert (1, 3) == arms[2].config.augment.classes
    for arm in (*arms, *scheduler_arms(base)):
        values = arm.config.to_dict()
        same = {k: v for k, v in values.items() if k not in ("augment", "scheduler")}
        assert same == {k: v for k, v in base.to_dict().items() if k in same}


def test_a_longer_run_is_the_same_schedule_stretched():
    """What counts epochs grows with them; the rest stays."""
    config = TrainConfig(epochs=20).with_overrides({"scheduler.step_epochs": 6})
    longer = stretched(config, 50)
    assert (50, 15) == (longer.epochs, longer.scheduler.step_epochs)
    assert config.optimizer == longer.optimizer


def test_what_pruning_saved_has_the_cost_of_judging_taken_off():
    """Two trials of 20 epochs, one given up at 5 and judged once: 14 of 40 saved."""

    def one(number: int, state: str, epochs: int, rungs: dict[int, float]) -> Outcome:
        return Outcome(number=number, state=state, value=0.5, epochs=epochs, previews=len(rungs),
                       recipe=None, run="", params={}, rungs=rungs, why=None,
                       seconds=10.0 * (epochs + len(rungs)))  # fmt: skip

    plan = Plan(name="s", recipe="scratch", epochs=20, image_size=64, seed=0, pruning=True,
                dataset_hash="", space={})  # fmt: skip
    found = summary(plan, [one(0, "complete", 20, {}), one(1, "pruned", 5, {5: 0.1})])
    assert 26 == found["epochs_spent"]
    assert pytest.approx(14 / 40) == found["saved_share"]
    assert pytest.approx(140) == found["seconds_saved"]


@pytest.mark.usefixtures("thin")
def test_the_commands_walk_from_search_to_conclusion(dishes, tmp_path, open_page):
    """Tune with a final run, then a study: tables, JSON, and pages that open without complaint.

    Two workers search, and share the finals.
    """
    from hansang import app

    common = ["--image-size", "32", "--threads", "1", "--runs-dir", str(tmp_path / "runs"),
              "--cache-dir", str(tmp_path / "cache"), "--json"]  # fmt: skip
    done = CliRunner().invoke(
        app, ["tune", str(dishes), "--study", "s", "--epochs", "1", "--trials", "2", "--final", "2",
              "--seeds", "2", "--workers", "2", *common],
    )  # fmt: skip
    assert 0 == done.exit_code, done.output
    found = json.loads(done.stdout)
    assert (2, 0) == (found["complete"], found["pruned"])
    # Not the seed that chose the winner.
    runs = [Path(run) for run in found["final"]["runs"]]
    assert ["seed1", "seed2"] == [run.name.rpartition("-")[2] for run in runs]
    results = [json.loads((run / "result.json").read_text())["val_top1"] for run in runs]
    assert pytest.approx(np.mean(results)) == found["final"]["val_top1"]
    began = [(tmp_path / f"runs/s/worker-{n}.log").read_text() for n in range(2)]
    assert all(f"trial {n}:" in "".join(began) for n in range(2))
    recipes = {one["recipe"] for one in found["final"]["over"]}
    for name in recipes:
        told = json.loads((tmp_path / f"runs/s/{name}-2epochs-seed1/config.json").read_text())
        wanted = recipe(name).with_overrides(
            {"epochs": 2, "image_size": 32, "seed": 1, "threads": 1}
        )
        assert wanted == TrainConfig.from_dict(told["config"])
    for one in found["final"]["over"]:
        assert one["test"] is not None
        assert pytest.approx(found["final"]["val_top1"]) == one["val"]["second"]
    # Each recipe at the final budget, but for one that won itself.
    others = {"baseline", "scratch"} - {found["trials"][0]["recipe"]}
    assert others == recipes
    compared = CliRunner().invoke(
        app, ["study", "augmentation", str(dishes), "--name", "a", "--epochs", "1", "--seeds", "1",
              "--weakest", "1", *common],
    )  # fmt: skip
    assert 0 == compared.exit_code, compared.output
    result = json.loads(compared.stdout)
    assert ["none", "even", "weakest1"] == [arm["name"] for arm in result["arms"]]
    assert 3 == len(result["conclusion"]) == len(result["classes"])
    assert all(re.search(r"beats|No difference shows", line) for line in result["conclusion"])
    for name, says in (("s", "baseline"), ("a", "points")):
        for width in (390, 1280):
            page = open_page(tmp_path / "runs" / name / "report.html", width=width)
            assert says in page.inner_text("body")
            assert [] == page.complaints
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width


def test_what_decides_has_the_greatest_share():
    """Of two settings one makes the value, and ten trials show it; of none nothing is claimed."""
    study = optuna.create_study(direction="maximize", sampler=RandomSampler(seed=0))
    study.optimize(
        lambda trial: trial.suggest_float("lr", 0, 1) + 0 * trial.suggest_float("idle", 0, 1),
        n_trials=10,
    )
    shares = importances(study)
    assert shares["lr"] > 0.8
    assert pytest.approx(1) == sum(shares.values())
    assert {} == importances(optuna.create_study())


@pytest.mark.usefixtures("thin")
def test_schedulers_are_compared_by_one_command(dishes, tmp_path):
    """Each against the constant learning rate, a sentence each."""
    from hansang import app

    done = CliRunner().invoke(
        app, ["study", "schedulers", str(dishes), "--epochs", "1", "--seeds", "1", "--threads",
              "1", "--image-size", "32", "--runs-dir", str(tmp_path / "runs"),
              "--cache-dir", str(tmp_path / "cache"), "--json"],
    )  # fmt: skip
    assert 0 == done.exit_code, done.output
    found = json.loads(done.stdout)
    names = ["none", "step", "cosine", "onecycle", "plateau"]
    assert names == [arm["name"] for arm in found["arms"]]
    assert [f"{name} over none" for name in names[1:]] == list(found["gains"])
    assert 4 == len(found["conclusion"])
    assert all("a constant learning rate" in line for line in found["conclusion"])
    for arm in found["arms"]:
        (run,) = arm["runs"]
        told = json.loads((Path(run) / "config.json").read_text())["config"]
        assert arm["name"] == told["scheduler"]["name"]
        assert json.loads((Path(run) / "result.json").read_text())["val_top1"] == arm["val_top1"]
    assert Path(found["report"]).is_file()


def test_a_study_of_nothing_is_refused(dishes, tmp_path):
    """A recipe that augments nothing has nothing to compare: that is said before training."""
    from hansang import app

    done = CliRunner().invoke(
        app, ["study", "augmentation", str(dishes), "--recipe", "baseline",
              "--runs-dir", str(tmp_path / "runs"), "--cache-dir", str(tmp_path / "cache")],
    )  # fmt: skip
    assert 1 == done.exit_code
    assert "augments nothing" in str(done.output) + str(done.exception)
