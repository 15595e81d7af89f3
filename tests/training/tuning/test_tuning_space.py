"""What a search may try: the default space, files that change it, and what they get wrong."""

import json
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch

from training.config import AugmentConfig, TrainConfig
from training.data.augment_parameters import sample_parameters
from training.data.augmentation import augment
from training.errors import ConfigError
from training.loop.learner import Learner
from training.recipes import recipe
from training.setting_names import flatten
from training.tuning.policies import POLICIES, augmentation
from training.tuning.rungs import Rungs, rungs
from training.tuning.space import Space
from training.tuning.space_file import read_space

BASE = recipe("scratch").with_overrides({"epochs": 20, "image_size": 64})


def written(tmp_path: Path, text: str) -> Space:
    """Return the space of a file with this text."""
    path = tmp_path / "space.toml"
    path.write_text(text)
    return read_space(str(path), BASE)


def test_policies_meet_what_is_known():
    """At strength 0.5 a policy is the recipe's; more is always stronger."""
    assert recipe("scratch").augment == augmentation("trivialaugment", 0.5)
    for name in POLICIES[1:]:
        assert augmentation(name, 0.2) != augmentation(name, 0.9)


@pytest.mark.parametrize(("name", "strength"), [("none", 2.0), ("auto", 0.5)])
def test_a_policy_that_is_none_is_refused(name, strength):
    """An unknown name or a strength beyond 1 is an error in words."""
    with pytest.raises(ConfigError, match=r"within 0 to 1|no augmentation policy"):
        augmentation(name, strength)


@pytest.mark.parametrize("extra", [{}, {"cutmix": 1.0}, {"trivial": 1.0, "erasing": 1.0}])
def test_only_some_classes_are_augmented(extra):
    """Photos of other classes are as in validation; the chosen ones as when all are augmented."""
    config = AugmentConfig(rotation=15, **extra)
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (8, 37, 37, 3), np.uint8))
    parameters = sample_parameters(8, config, seed=1, step=2)
    chosen = torch.tensor([True, True, False, False, True, False, False, True])
    everywhere, _ = augment(images, 32, 32, config, parameters)
    some, share = augment(images, 32, 32, config, parameters, chosen=chosen)
    centre = images[:, 2:34, 2:34].permute(0, 3, 1, 2).float()
    assert torch.equal(some[~chosen], centre[~chosen])
    assert (share[~chosen] == 1).all()
    # The first two are partners and both augmented, so mixing is the same, too.
    assert torch.equal(some[:2], everywhere[:2])


def test_classes_are_written_as_set_takes_them():
    """`--set augment.classes=2,0` survives JSON, and a class that is not there is an error."""
    config = TrainConfig().with_overrides({"augment.classes": "2,0"})
    assert (2, 0) == config.augment.classes
    values = json.loads(json.dumps(config.to_dict()))
    assert values == config.to_dict()
    assert config == TrainConfig.from_dict(values)
    printed = str(flatten(config.to_dict())["augment.classes"])
    assert config == TrainConfig().with_overrides({"augment.classes": printed})
    with pytest.raises(ConfigError, match="names class 2, but there are 2"):
        Learner(config, 2, torch.device("cpu"))


def test_recipes_lie_in_the_default_space():
    """The recipe that a search starts from is a point of the space, and the baseline nearly."""
    space = read_space("default", BASE)
    assert BASE == space.config(space.nearest(BASE))
    baseline = space.nearest(recipe("baseline"))
    assert {"optimizer.lr@sgd": 0.001, "augment.policy": "none"}.items() <= baseline.items()


def test_every_point_of_the_default_space_is_a_config():
    """300 random points are configs that a run accepts, and conditions hold."""
    space = read_space("default", BASE)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = set()
    for _ in range(300):
        trial = study.ask()
        config = space.suggest(trial)
        seen.add((config.optimizer.name, config.scheduler.name))
        assert ("optimizer.lr@adamw" in trial.params) == (config.optimizer.name == "adamw")
        assert ("augment.strength" in trial.params) == (trial.params["augment.policy"] != "none")
        study.tell(trial, 0.0)
    assert 10 == len(seen)


def test_a_file_narrows_widens_and_fixes(tmp_path):
    """Its entries replace those of the default for the same setting; tables may be nested."""
    space = written(tmp_path, 'label_smoothing = 0.05\n"augment.erasing" = [0.0, 0.5]\n'
                    "[optimizer]\nlr = { low = 0.01, high = 0.02 }\n")  # fmt: skip
    names = [entry.name for entry in space.entries]
    assert "optimizer.lr" in names
    assert not any(name.startswith("optimizer.lr@") for name in names)
    only = written(tmp_path, '"scheduler.name" = ["cosine", "none"]\n"augment.policy" = "none"')
    names = {entry.name for entry in only.entries}
    assert {"scheduler.warmup_epochs"} == {name for name in names if "scheduler." in name} - {
        "scheduler.name"
    }
    assert "augment.strength" not in names
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    trial = study.ask()
    config = space.suggest(trial)
    assert 0.05 == config.label_smoothing
    assert 0.01 <= config.optimizer.lr <= 0.02
    assert "label_smoothing" not in trial.params
    assert config.augment.erasing in (0.0, 0.5)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("label_smoothing = [1,,2]", "is no TOML.*line 1"),
        ("label_smooting = [0.0, 0.1]", "no such setting; did you mean label_smoothing"),
        ("label_smoothing = { low = 0.2, high = 0.1 }", r"low \(0.2\) must be below high"),
        ("label_smoothing = { low = 0.0, high = 0.1, log = true }", "above 0 on a log scale"),
        ("label_smoothing = { low = 0.0, high = 3.0 }", "label_smoothing = 3.0: config: label_sm"),
        ("label_smoothing = { low = 0.0 }", "needs numbers low and high"),
        ("label_smoothing = { low = 0.0, high = 0.1, steps = 3 }", "unknown .*steps"),
        ("label_smoothing = []", "list of different plain values"),
        ("batch_size = [32, 32]", "list of different plain values"),
        ("batch_size = [33]", "batch_size must be even"),
        ("batch_size = { low = 16, high = 64 }", "batch_size must be even; so with .*batch_size"),
        ("micro_batch_size = [16, 24]\nbatch_size = [48, 64]", r"\(24\) must divide .*so with"),
        ('"augment.policy" = { choices = 3 }', "list of different plain values"),
        ('label_smoothing = { choices = [0.1], when = { "optimizer.name" = [["sgd"]] } }',
         "when optimizer.name must be a plain value"),
        ("batch_size = { low = 8.5, high = 64 }", "must be whole numbers"),
        ("balance = { low = 0, high = 1 }", "give a list of choices"),
        ('balance = ["none", "some"]', "balance = some: config: balance"),
        ('"augment.policy" = ["none", "heavy"]', "no policy 'heavy'"),
        ("epochs = [10, 20]", "every trial has the same; use --epochs"),
        ("threads = [1, 2]", "this is not searched"),
        ('label_smoothing = { choices = [0.1], when = { "optimizer.nam" = "sgd" } }',
         "its when names optimizer.nam, which is not here"),
        ('label_smoothing = { choices = [0.1], when = { "optimizer.name" = "lion" } }',
         "optimizer.name is never lion; it may be sgd, adamw"),
        ('label_smoothing = { choices = [0.1, 0.2], when = { balance = "none" } }\n'
         'balance = { choices = ["none", "loss"], when = { label_smoothing = 0.1 } }',
         "its when depends on itself"),
        ('"label_smoothing@a" = [0.1]\n"label_smoothing@b" = [0.2]', "can apply at once"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_file_is_said(tmp_path, text, says):
    """The file, the entry and the reason are in the message."""
    with pytest.raises(ConfigError, match=rf"(?s)space\.toml.*{says}"):
        written(tmp_path, text)


def test_a_missing_file_is_said():
    """A wrong path names itself."""
    with pytest.raises(ConfigError, match=r"nowhere\.toml: there is no such file"):
        read_space("nowhere.toml", BASE)


def test_a_quarter_of_the_trials_goes_on_and_then_half():
    """At a rung the first goes on, then who is among the best so far: a quarter, later half."""
    assert (5, 10) == rungs(20)
    assert () == rungs(3)
    study = optuna.create_study(direction="maximize", pruner=Rungs())
    went_on = []
    for value in (0.2, 0.1, 0.3, 0.25, 0.24, 0.29, 0.28, 0.1):
        trial = study.ask()
        trial.report(value, 5)
        went_on.append(not trial.should_prune())
    assert [True, False, True, False, False, True, False, False] == went_on
    assert not study.ask().should_prune()
    went_on = []
    for value in (0.2, 0.1, 0.3, 0.25, 0.1):
        later = study.ask()
        later.report(0.4, 5)
        later.report(value, 10)
        went_on.append(not later.should_prune())
    assert [True, False, True, True, False] == went_on
