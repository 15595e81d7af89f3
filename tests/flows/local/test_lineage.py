"""Every version says where it came from; and a run in an image says from which revision."""

import shutil

import pytest

from flows.local.lineage import versions
from flows.release_gate.publish import release
from service.errors import NotFoundError
from service.models.repository import ModelRepository
from tests.service import tiny_onnx
from training.runs import run_directory


def test_each_version_says_run_photos_commit_figures_and_decision(trained, tmp_path):
    """One that was released by force, and one that was published by hand, which knows less."""
    run = shutil.copytree(trained, tmp_path / "first")
    released = release(run, repository=tmp_path / "models")
    store = ModelRepository(tmp_path / "models")
    by_hand = {"git_commit": "", "dataset_hash": "", "run_id": "elsewhere"}
    onnx = tiny_onnx.build(tmp_path / "x.onnx", properties=by_hand)
    assert 2 == store.publish("food42", onnx, record={"reason": "by hand"})

    second, first = versions(tmp_path / "models")

    about = run_directory.read(run)
    assert {
        "model": "food42", "version": 1, "serves": False, "run": str(run),
        "dataset": about["dataset_hash"], "commit": about["git_commit"] or None,
        "top1": released.candidate.verdict["challenger_top1"],
    }.items() <= first.items()  # fmt: skip
    assert first["why"].startswith("first release")
    assert (2, True, "elsewhere", None, "by hand") == tuple(
        second[name] for name in ("version", "serves", "run", "commit", "why")
    )
    with pytest.raises(NotFoundError, match="there is food42"):
        versions(tmp_path / "models", "drink")


def test_a_run_in_an_image_says_what_the_image_was_built_from(monkeypatch):
    """Where there is no git, the image's own revision is noted."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("HANSANG_REVISION", "a" * 40)
    assert "a" * 40 == run_directory._git_commit()
