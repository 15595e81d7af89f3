"""What computes a run stands in it and is compared: it goes on to the same bits, or is refused."""

import json
import shutil

import pytest

from tests.thin import thin_network
from tests.training.runs.disturbed import CONFIG, assert_same
from training.errors import RunError, StoppedError
from training.loop.trainer import train
from training.runs import run_directory
from training.runs.exactness import continued

pytestmark = pytest.mark.usefixtures("thin")


@pytest.fixture(scope="module")
def begun(cache, tmp_path_factory):
    """A run that was stopped after five steps, on one thread."""
    stops = iter([False] * 5)
    run_dir = tmp_path_factory.mktemp("begun") / "r"
    with thin_network(), pytest.raises(StoppedError):
        train(CONFIG, cache, run_dir, device="cpu", should_stop=lambda: next(stops, True))
    return run_dir


@pytest.fixture
def stopped(begun, tmp_path):
    """A copy of a run that was stopped, to go on with."""
    shutil.copytree(begun, tmp_path / "r")
    return tmp_path / "r"


def pretend(run_dir, **computing) -> None:
    """Let a run have begun otherwise."""
    path = run_dir / "config.json"
    about = json.loads(path.read_text())
    about["computing"] |= computing
    path.write_text(json.dumps(about))


def test_what_computes_a_run_stands_in_it(begun):
    """Device, precision, processes, threads and version, as they were resolved."""
    import torch

    about = run_directory.read(begun)["computing"]

    assert about["device"].startswith("cpu (")
    assert about["precision"] in ("fp32", "bf16")
    assert ("off", 1, 1) == (about["compiled"], about["processes"], about["threads"])
    assert torch.__version__ == about["torch"]


@pytest.mark.parametrize(
    ("name", "value"),
    [("device", "cuda (NVIDIA H100)"), ("precision", "fp16"), ("processes", 4),
     ("torch", "2.9.0"), ("compiled", "on"), ("threads", 7)],
)  # fmt: skip
def test_another_way_of_computing_is_refused_and_may_be_accepted(stopped, cache, name, value):
    """The sentence names what differs and the way out; an accepted change stands in the run."""
    pretend(stopped, **{name: value})

    with pytest.raises(RunError, match=rf"{name}: .* there, .* now\. Go on .*--accept-changes"):
        train(CONFIG, cache, stopped, device="cpu")
    with pytest.raises(StoppedError):
        train(CONFIG, cache, stopped, device="cpu", accept_changes=True, should_stop=lambda: True)

    about = run_directory.read(stopped)
    (note,) = about["accepted"]
    assert (5, [value, about["computing"][name]]) == (note["step"], note["changes"][name])
    assert value != about["computing"][name]


def test_an_untouched_run_is_the_same_run(stopped, undisturbed, cache):
    """Nothing differs, nothing is noted, and it ends with the very weights."""
    train(CONFIG, cache, stopped, device="cpu", accept_changes=True)

    assert "accepted" not in run_directory.read(stopped)
    assert_same(undisturbed, stopped)


def test_a_run_keeps_its_threads_unless_told_otherwise(stopped, cache):
    """Its own number computes on; another one that is asked for is a change."""
    free = CONFIG.with_overrides({"threads": 0})
    path = stopped / "config.json"
    about = json.loads(path.read_text())
    about["config"]["threads"] = 0
    path.write_text(json.dumps(about))

    with pytest.raises(RunError, match=r"threads: 1 there, 2 now"):
        train(CONFIG.with_overrides({"threads": 2}), cache, stopped, device="cpu")
    with pytest.raises(StoppedError):
        train(free, cache, stopped, device="cpu", should_stop=lambda: True)

    assert 1 == run_directory.read(stopped)["threads"]


def test_a_run_from_before_is_compared_by_what_it_says():
    """An older run tells its version of torch and its threads, and what it does not tell is new."""
    wanted = {"config": CONFIG.to_dict(), "labels": ["a"], "dataset_hash": "0"}
    old = {**wanted, "versions": {"torch": "2.13.0"}, "threads": 1}
    now = {"device": "cpu (AVX2)", "torch": "2.13.0", "threads": 1, "precision": "fp32"}

    assert now == continued(old, wanted, now, "r")["computing"]
    with pytest.raises(RunError, match=r"torch: 2\.13\.0 there, 2\.14\.0 now"):
        continued(old, wanted, {**now, "torch": "2.14.0"}, "r")


def test_another_run_is_never_accepted():
    """Settings and photos are what a run is: no option goes on with others."""
    wanted = {"config": CONFIG.to_dict(), "labels": ["a"], "dataset_hash": "0"}

    with pytest.raises(RunError, match="is another run: dataset_hash: 0 there, 1 now"):
        continued(wanted, {**wanted, "dataset_hash": "1"}, {}, "r", accept_changes=True)
