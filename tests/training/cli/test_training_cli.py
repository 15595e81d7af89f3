"""The verbs that need photos alone, run as a person runs them."""

import json
import subprocess
from pathlib import Path

import pytest

from tests import commands
from training.cli.tables import print_results
from training.runs.result import TrainResult

COUNTS = {"train/김밥": 3, "train/냉면": 2, "val/김밥": 1, "val/냉면": 1}


@pytest.fixture
def hansang(tmp_path, monkeypatch):
    """`hansang("inspect", root)` runs a verb in an empty folder; it never shows a traceback."""
    monkeypatch.setenv("COLUMNS", "120")

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        ended = commands.hansang(*arguments, cwd=tmp_path)
        assert "Traceback" not in ended.stderr, ended.stderr
        return ended

    return run


def test_sample_draws_a_folder_that_inspect_finds_sound(hansang, tmp_path):
    """`sample`, then `inspect`: JSON on stdout, the sheet where it was asked for."""
    drawn = hansang("sample", "photos", "--classes", 2, "--per-class", 5, "--json")
    looked = hansang("inspect", "photos", "--out", "look", "--json")

    assert 0 == drawn.returncode == looked.returncode
    assert 10 == json.loads(drawn.stdout)["pictures"]
    sheet = json.loads(looked.stdout)
    assert sheet["error"] is None
    assert [{3}, {1}, {1}] == [
        set(sheet["counts"][split].values()) for split in ("train", "val", "test")
    ]
    assert (tmp_path / "look" / "classes.png").stat().st_size > 0


def test_sample_has_as_many_dishes_as_it_says(hansang, tmp_path):
    """Without `--classes` all dishes of the kind are drawn; more than there are is refused."""
    similar = hansang("sample", "similar", "--similar", "--per-class", 5, "--json")
    refused = hansang("sample", "more", "--similar", "--classes", 20)

    assert 13 == json.loads(similar.stdout)["classes"]
    assert 1 == refused.returncode
    assert refused.stderr.startswith("error: ")
    assert not (tmp_path / "more").exists()


def test_inspect_shows_people_what_is_wrong(hansang, folder, tmp_path):
    """A table of counts on stdout; bad files and copies by name; the sheet has DATA's name."""
    root = folder(COUNTS)
    (root / "train" / "김밥" / "bad.jpg").write_bytes(b"junk")
    (root / "val" / "김밥" / "leak.jpg").write_bytes((root / "train/김밥/0.jpg").read_bytes())

    ended = hansang("inspect", root)

    assert 0 == ended.returncode
    assert "김밥" in ended.stdout
    assert "train/김밥/bad.jpg" in ended.stderr
    assert "val/김밥/leak.jpg" in ended.stderr
    assert (tmp_path / "photos-sheet" / "index.html").exists()
    assert 1 == hansang("inspect", root, "--strict").returncode


def test_inspect_shows_a_folder_that_cannot_be_trained_on_and_fails(hansang, folder):
    """The sheet is still printed; the reason is on stderr and the exit code is 1."""
    ended = hansang("inspect", folder({"train/a": 2, "train/b": 2, "val/a": 1}), "--json")

    assert 1 == ended.returncode
    assert "'b' is missing from" in json.loads(ended.stdout)["error"]
    assert "error: class 'b' is missing from" in ended.stderr


def test_prepare_builds_a_cache_once(hansang, folder):
    """The second call gives the same cache; a bad file is named and left out."""
    root = folder(COUNTS)
    (root / "train" / "김밥" / "bad.jpg").write_bytes(b"junk")

    first = hansang("prepare", root, "--image-size", 32)
    again = hansang("prepare", root, "--image-size", 32, "--json")

    assert 0 == first.returncode == again.returncode
    assert "left out: train/김밥/bad.jpg" in first.stderr
    cache = json.loads(again.stdout)
    assert {"train": 5, "val": 2} == cache["photos"]
    assert ["train/김밥/bad.jpg"] == list(cache["bad_files"])


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("inspect", "nowhere"), 1),
        (("prepare", "nowhere"), 1),
        (("prepare", "nowhere", "--image-size", 5), 2),
        (("sample", "out", "--classes", 1), 2),
        (("inspect",), 2),
    ],
)
def test_failure_and_wrong_use_have_their_own_exit_codes(hansang, arguments, code):
    """1 when it failed, 2 when it was called wrongly; the reason is on stderr, stdout is empty."""
    ended = hansang(*arguments)

    assert code == ended.returncode
    assert "" == ended.stdout
    assert "" != ended.stderr


@pytest.mark.long
def test_several_seeds_are_summed_up_and_a_batch_is_fitted(hansang, dishes, tmp_path):
    """Each seed is a run of its own; the JSON has their mean; a whole batch fits a CPU."""
    done = hansang(
        "train", dishes, "--run", "r", "--seeds", 2, "--epochs", 1, "--image-size", 32,
        "--batch-size", "auto", "--json",
    )  # fmt: skip

    assert 0 == done.returncode, done.stderr
    summed = json.loads(done.stdout)
    tops = [run["val_top1"] for run in summed["runs"]]
    assert summed["val_top1"] == pytest.approx(sum(tops) / 2)
    for seed in (0, 1):
        about = json.loads((tmp_path / "runs" / f"r-seed{seed}" / "config.json").read_text())
        assert (seed, 32, 0) == tuple(
            about["config"][name] for name in ("seed", "batch_size", "micro_batch_size")
        )


def result(seed: int, test_top1: float | None) -> TrainResult:
    """Return what a seed's run reached."""
    return TrainResult(
        run_dir=Path(f"runs/r-seed{seed}"), epochs=1, best_epoch=1, val_top1=0.5 + seed / 10,
        val_interval=(0.4, 0.6), val_loss=1.0, test_top1=test_top1,
        test_interval=test_top1 and (0.2, 0.8), temperature=1.0, ece_before=0.1, ece_after=0.1,
        photos_per_s=9.0,
    )  # fmt: skip


def test_the_mean_over_seeds_is_that_of_the_test_split_too(capsys):
    """Where photos were kept aside, their mean stands beside validation's; else it does not."""
    print_results([result(0, 0.25), result(2, 0.35)], True)
    summed = json.loads(capsys.readouterr().out)
    print_results([result(0, 0.25), result(2, 0.35)], False)
    table = capsys.readouterr().out
    print_results([result(0, None), result(2, None)], True)

    assert (0.6, 0.3) == pytest.approx((summed["val_top1"], summed["test_top1"]))
    assert summed["test_top1_half_interval"] > 0
    assert "validation top-1, mean of 2 seeds" in table
    assert "test top-1, mean of 2 seeds" in table
    assert "test_top1" not in json.loads(capsys.readouterr().out)


def test_a_placement_that_this_device_has_not_is_refused(hansang, dishes):
    """Unknown ones are listed; those of a GPU are told so on a CPU."""
    common = ("train", dishes, "--epochs", 1, "--image-size", 32, "--device", "cpu")

    unknown = hansang(*common, "--placement", "somewhere")
    resident = hansang(*common, "--placement", "resident")

    assert "placement must be one of auto, resident, pinned, memory-mapped" in unknown.stderr
    assert "placement resident needs a CUDA device" in resident.stderr
    assert 1 == unknown.returncode == resident.returncode
