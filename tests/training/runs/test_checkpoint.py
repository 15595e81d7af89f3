"""A checkpoint's file by itself: what is in it, what a damage is, which are kept."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from training.errors import RunError
from training.runs import checkpoint


@pytest.fixture(autouse=True)
def collected() -> None:
    """Nothing here leaves a run's memory behind."""


def saved(folder, *steps: int) -> None:
    """Write a small checkpoint after each of these steps."""
    for step in steps:
        tensors = {"model.w": torch.full((3,), float(step))}
        checkpoint.save(checkpoint.path_of(folder, step), tensors, {"step": step})


def names(folder) -> list[str]:
    """Return what lies in a folder."""
    return sorted(path.name for path in folder.iterdir())


def test_what_was_saved_is_loaded(tmp_path):
    """Any type and order of numbers, an empty tensor, one that needs a gradient, and the state."""
    tensors = {
        "model.half": torch.randn(3, 2).bfloat16(),
        "model.order": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "model.learnt": torch.randn(2, requires_grad=True),
        "model.none": torch.zeros(0, 4),
        "rng": torch.arange(5, dtype=torch.uint8),
        "step": torch.tensor(7),
    }

    checkpoint.save(tmp_path / "x.safetensors", tensors, {"epoch": 1, "dish": "김치"})
    loaded, state = checkpoint.load(tmp_path / "x.safetensors")

    assert {"epoch": 1, "dish": "김치"} == state
    assert tensors.keys() == loaded.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == loaded[name].dtype
        assert torch.equal(tensor, loaded[name])


@pytest.mark.parametrize("what", ["name", "type", "shape", "value", "state", "more", "no sum"])
def test_any_change_of_what_was_written_is_a_damage(tmp_path, what):
    """The file is sound safetensors each time: the checksum covers all that stands in it."""
    path = checkpoint.path_of(tmp_path, 1)
    checkpoint.save(path, {"a": torch.arange(6, dtype=torch.int16)}, {"step": 1})
    state, digest = '{"step": 1}', _digest(path)
    (tensor,) = load_file(path).values()
    tensors = {"a": tensor}
    if what == "name":
        tensors = {"b": tensor}
    elif what == "type":
        tensors = {"a": tensor.view(torch.float16)}
    elif what == "shape":
        tensors = {"a": tensor.view(2, 3)}
    elif what == "value":
        tensor[5] += 1
    elif what == "more":
        tensors["c"] = torch.zeros(0)
    elif what == "state":
        state = '{"step": 2}'
    metadata = {"state": state} | ({} if what == "no sum" else {"sha256": digest})
    save_file(tensors, path, metadata)

    with pytest.raises(checkpoint.DamagedError, match=r"step-00000001\.safetensors is damaged"):
        checkpoint.load(path)


def _digest(path) -> str:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return file.metadata()["sha256"]


def test_one_that_is_gone_is_damaged_too(tmp_path):
    """Whoever reads it has one error to expect."""
    with pytest.raises(checkpoint.DamagedError, match="is damaged"):
        checkpoint.load(checkpoint.path_of(tmp_path, 1))


def test_one_that_cannot_be_written_is_a_sentence(tmp_path):
    """The folder is gone: what to do is said, and nothing is made."""
    with pytest.raises(RunError, match=r"cannot write the checkpoint .*gone.*the same command"):
        checkpoint.save(tmp_path / "gone" / "x.safetensors", {"a": torch.zeros(1)}, {})
    assert [] == names(tmp_path)


def test_the_last_two_are_kept_and_half_written_files_are_not(tmp_path):
    """By number, also beyond eight digits; the best one is a name of its own."""
    saved(tmp_path, 99_999_998, 99_999_999, 100_000_000)
    checkpoint.link_best(tmp_path, 99_999_998)
    (tmp_path / ".tmp-0123456789ab-step-00000001.safetensors").write_bytes(b"half")

    assert 100_000_000 == checkpoint.newest_step(tmp_path)
    checkpoint.prune(tmp_path)

    kept = ["best.safetensors", "step-100000000.safetensors", "step-99999999.safetensors"]
    assert kept == names(tmp_path)
    assert {"step": 99_999_998} == checkpoint.load(tmp_path / "best.safetensors")[1]
    checkpoint.link_best(tmp_path, 100_000_000)
    assert {"step": 100_000_000} == checkpoint.load(tmp_path / "best.safetensors")[1]
    assert kept == names(tmp_path)


def test_a_folder_without_any_has_none(tmp_path):
    """A run that was begun and never saved starts at step 0."""
    assert 0 == checkpoint.newest_step(tmp_path)
    assert checkpoint.newest_good(tmp_path) is None


def test_sound_ones_up_to_a_step_are_found_and_kept(tmp_path):
    """For a run that goes back: the step itself counts, later and damaged ones do not."""
    saved(tmp_path, 2, 4, 6, 8)
    checkpoint.path_of(tmp_path, 2).write_bytes(b"")

    good = checkpoint.good_until(tmp_path, 6)
    checkpoint.keep_only(tmp_path, good)

    assert [checkpoint.path_of(tmp_path, step) for step in (4, 6)] == good
    assert ["step-00000004.safetensors", "step-00000006.safetensors"] == names(tmp_path)


def test_going_back_removes_the_newest_first(tmp_path, monkeypatch):
    """A kill between two of them leaves the run one to continue from, and no gap."""
    saved(tmp_path, 1, 2, 3)
    removed = []
    monkeypatch.setattr("pathlib.Path.unlink", lambda path: removed.append(path.name))

    checkpoint.keep_only(tmp_path, [checkpoint.path_of(tmp_path, 1)])

    assert ["step-00000003.safetensors", "step-00000002.safetensors"] == removed


def test_damaged_ones_stay_where_no_other_is_sound(tmp_path):
    """Or the same command would begin a new run over this one."""
    saved(tmp_path, 1, 2)
    for step in (1, 2):
        checkpoint.path_of(tmp_path, step).write_bytes(b"")

    with pytest.raises(RunError, match=r"every checkpoint in .* another --run"):
        checkpoint.newest_good(tmp_path)
    assert 2 == len(names(tmp_path))
    saved(tmp_path, 1)
    assert "step-00000001.safetensors" == checkpoint.newest_good(tmp_path)
    assert ["step-00000001.safetensors"] == names(tmp_path), "only what follows it is removed"


def test_the_released_weights_are_the_average_if_there_is_one():
    """By torchvision's names; the learnt ones where nothing was averaged."""
    learnt, average = torch.zeros(1), torch.ones(1)

    both = checkpoint.model_tensors({"model.w": learnt, "average.w": average, "rng": learnt})
    alone = checkpoint.model_tensors({"model.w": learnt, "rng": learnt})

    assert {"w": average} == both
    assert {"w": learnt} == alone


@pytest.mark.parametrize(
    ("values", "finite"),
    [([0.0, 1.0], True), ([0.0, float("nan")], False), ([float("-inf"), 1.0], False)],
)
def test_one_number_that_is_not_finite_is_found(values, finite):
    """Whichever tensor holds it; numbers without fractions always are."""
    tensors = {"a": torch.zeros(3), "w": torch.tensor(values), "step": torch.tensor(3)}

    assert finite is checkpoint.all_finite(tensors)
