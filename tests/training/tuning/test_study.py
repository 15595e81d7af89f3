"""A study: a function of its seed; who does which trial; and who may not join."""

import pytest
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState

from tests.training.tuning.studies import study_of, told
from training.errors import ConfigError, StoppedError
from training.recipes import recipe
from training.tuning.storages import (
    failing_in_words,
    storage_of,
    url_of,
    without_password,
)


def test_the_search_is_a_function_of_its_seed(tmp_path):
    """The same seed proposes the same trials, also when it stops after each; another does not."""
    # The first ten are drawn at random; then TPE proposes.
    first = told(study_of(tmp_path / "a"), 13)
    for trials in (1, 4, 12, 13):
        stopped = told(study_of(tmp_path / "b"), trials)
    assert first == stopped
    assert 13 == len(first)
    other = told(study_of(tmp_path / "c", seed=4), 4)
    assert first[:2] == other[:2]
    assert first[2:4] != other[2:]


def test_workers_at_the_same_time_try_different_settings(tmp_path):
    """What another worker tries now counts: the next trial is another than if that had failed."""
    proposed = []
    for state in (None, TrialState.FAIL):
        study = study_of(tmp_path / str(state))
        told(study, 13)
        first = study.claim(20)
        if state is not None:
            study.optuna.tell(first.trial, state=state)
        second = study.claim(20)
        proposed.append((first.trial.params, second.trial.params))
        first.release()
        second.release()

    assert proposed[0][0] == proposed[1][0]
    assert proposed[0][1] != proposed[1][1]


def test_trial_0_is_the_baseline_and_1_the_recipe(tmp_path):
    """They are the recipes themselves, also where the space has only something near."""
    study = study_of(tmp_path)
    for name in ("baseline", "scratch"):
        claim = study.claim(2)
        budget = {"epochs": 4, "image_size": 32, "seed": 3}
        assert claim.config == recipe(name).with_overrides(budget)
        assert claim.is_recipe
        study.optuna.tell(claim.trial, 0.5)
        claim.release()
    assert study.claim(2) is None
    assert study.finished(2)
    assert not study.finished(3)


def test_a_trial_is_one_workers_until_that_worker_dies(tmp_path):
    """Two workers get different trials; a lock that is let go of gives the very trial again."""
    one, two = study_of(tmp_path), study_of(tmp_path)
    first, second = one.claim(3), two.claim(3)
    assert (0, 1) == (first.trial.number, second.trial.number)
    third = two.claim(3)
    assert two.claim(3) is None
    assert not two.finished(3)
    tried = third.trial.params
    # What the system does when a process ends, however it ends.
    third.release()
    again = one.claim(3)
    assert (2, tried) == (again.trial.number, again.trial.params)
    assert again.config == third.config
    assert 3 == len(one.trials())
    for claim in (first, second, again):
        claim.release()


def test_a_trial_that_ends_while_another_looks_is_not_run_again(tmp_path, monkeypatch):
    """Its worker tells the result between the look at the list and the lock: it stays done."""
    one, two = study_of(tmp_path), study_of(tmp_path)
    first = one.claim(2)
    lock = two._lock

    def ends_meanwhile(number):
        if number == 0 and first.lock is not None:
            one.optuna.tell(first.trial, 0.5)
            first.release()
            first.lock = None
        return lock(number)

    monkeypatch.setattr(two, "_lock", ends_meanwhile)
    second = two.claim(2)
    assert 1 == second.trial.number
    second.release()


def test_a_worker_that_does_not_fit_the_study_is_refused(tmp_path):
    """Another budget, another folder, an unreachable or unknown storage: each says what to do."""
    storage = f"sqlite:///{tmp_path}/shared.db"
    study_of(tmp_path / "a", storage)
    with pytest.raises(ConfigError, match="began otherwise: epochs: 4 there, 8 now"):
        study_of(tmp_path / "a", storage, epochs=8)
    with pytest.raises(ConfigError, match="every worker must see the same folder"):
        study_of(tmp_path / "b", storage)
    with pytest.raises(ConfigError, match=r"joe:\*\*\*@127.0.0.1:9/x cannot be used"):
        study_of(tmp_path / "c", "postgresql://joe:secret@127.0.0.1:9/x")
    with pytest.raises(ConfigError, match="is no URL"):
        study_of(tmp_path / "d", "study.db")
    with pytest.raises(ConfigError, match="give it a name"):
        study_of(tmp_path, name="../s")
    with pytest.raises(ConfigError, match="cannot be used"):
        study_of(tmp_path / "c", "postgresql://u@h:abc/d")
    study_of(tmp_path / "a", storage).claim(3).release()
    with pytest.raises(ConfigError, match="has trials, and this storage has none of them"):
        study_of(tmp_path / "a", f"sqlite:///{tmp_path}/other.db")
    with pytest.raises(ConfigError, match="the photos are others"):
        study_of(tmp_path / "a", storage, dataset_hash="i")
    assert "postgresql+psycopg://u@h/d" == url_of("postgres://u@h/d", tmp_path)
    assert "x://u:***@h/d" == without_password("x://u:p@h/d")
    for url in ("x://u:p%40ss@h/d", "x://u:p@ss@h/d", "x://u@h:a/d", "x://h/d?password=p%40ss"):
        assert "ss" not in without_password(url).replace("password", "")


def test_a_storage_that_fails_is_a_stop_that_goes_on():
    """Whoever began the worker sees that the same command goes on: exit code 75, no traceback."""
    said = r"storage failed: gone away; .* goes on"
    with pytest.raises(StoppedError, match=said) as stopped, failing_in_words():
        raise StorageInternalError("it failed") from OSError("gone away")
    assert 75 == stopped.value.exit_code


def test_a_study_lies_in_its_folder_whatever_that_is_called(tmp_path):
    """`what?`: what follows the sign would be options of the database, and the file elsewhere."""
    for name in ("what?", "#1", "100%", "a*b [new]"):
        folder = tmp_path / name
        folder.mkdir()
        storage_of(url_of(None, folder))
        assert ["study.db"] == [path.name for path in folder.iterdir()]
