"""Fine-tuning: what learns and what does not, features kept, kills, the search and its table."""

import json
import multiprocessing
import os
import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from terminal import UserError
from tests.paths import ROOT
from tests.thin import thin_network
from tests.training.finetuning.conftest import SMALL
from training.config import TrainConfig
from training.data.cache import DatasetCache
from training.errors import RunError, StoppedError
from training.finetuning.retention import retention
from training.finetuning.search import config_for
from training.finetuning.similarity import measure
from training.loop.learner import Learner
from training.loop.trainer import train
from training.model import pretrained
from training.model.pretrained import Start
from training.model.stages import EVERYTHING, PARTS, part_of, phases

OF_THE_CLOCK = {"photos_per_s", "train_s", "data_wait_s", "eval_s", "save_s", "features_s"}


# Forked from a clean server that has imported torch: a real process, in milliseconds.
PROCESSES = multiprocessing.get_context("forkserver")


PROCESSES.set_forkserver_preload(["training.loop.trainer", "training.model.pretrained"])


pytestmark = pytest.mark.usefixtures("thin")


@pytest.fixture(scope="module")
def source(dishes_cache: DatasetCache, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the thin network on three drawn dishes."""
    run_dir = tmp_path_factory.mktemp("source") / "r"
    config = TrainConfig(image_size=32, epochs=6, batch_size=16, threads=1)
    with thin_network():
        train(config, dishes_cache, run_dir, device="cpu")
    return run_dir


@pytest.fixture(scope="module")
def start(source: Path) -> Start:
    """Its best epoch."""
    with thin_network():
        return pretrained.read(source)


def small(strategy: str, start: Start, epochs: int = 3, **overrides: object) -> TrainConfig:
    """Return a strategy's config, for a run of seconds."""
    return config_for(strategy, start, epochs=epochs, overrides={**SMALL, **overrides})


def losses(run_dir: Path) -> list[dict[str, float]]:
    """Return the epochs of a run without what the clock says."""
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in OF_THE_CLOCK} for line in lines]


@pytest.mark.parametrize(
    ("strategy", "learning"),
    [
        ("linear-probe", {"head"}),
        ("last-layers", {"layer4", "head"}),
        ("first-block", {"stem", "layer1", "head"}),
        ("gradual", set(PARTS) - {"stem"}),
        ("lp-ft", set(PARTS)),
        ("full", set(PARTS)),
    ],
)
def test_a_strategy_changes_its_parts_and_not_a_bit_of_the_others(
    start, cache, tmp_path, strategy, learning
):
    """Weights and BatchNorm statistics of frozen parts end as they began; the rest has moved."""
    config = small(strategy, start, **{"transfer.unfreeze_share": 1})

    train(config, cache, tmp_path / "r", device="cpu", start=start)

    newest = sorted((tmp_path / "r/checkpoints").glob("step-*"))[-1]
    for prefix in ("model.", "average."):
        stored = {k.removeprefix(prefix): v for k, v in load_file(newest).items()
                  if k.startswith(prefix)}  # fmt: skip
        moved = {
            PARTS[part_of(name)]
            for name, tensor in start.tensors.items()
            if not torch.equal(tensor, stored[name])
        }
        assert learning - {"head"} == moved
    assert (3, 64) == tuple(stored["fc.weight"].shape)


def test_phases_follow_the_settings(start):
    """Who learns when, and where views are fixed: where the first parts are frozen for long."""
    gradual = phases(
        small("gradual", start, 20, **{"transfer.views": 1, "transfer.unfreeze_share": 0.5})
    )
    short = phases(small("gradual", start, 2))
    first = phases(small("lp-ft", start, 3, **{"transfer.views": 2}))

    assert [0, 2, 4, 6, 8, 10] == [phase.start for phase in gradual]
    assert [5, 4, 3, 2, 1, 0] == [phase.frozen for phase in gradual]
    assert [1, 1, 1, 1, 1, 0] == [phase.views for phase in gradual]
    # In two epochs everything learns at last, or a short trial would be none of this strategy.
    assert [(0, 2), (1, 0)] == [(phase.start, phase.frozen) for phase in short]
    # Two epochs are no more than two views: making these would cost as much as it saves.
    assert [(0, 0), (2, 0)] == [(phase.start, phase.views) for phase in first]
    assert EVERYTHING == first[1].learning


@pytest.mark.parametrize("strategy", ["linear-probe", "last-layers"])
def test_kept_features_change_nothing_but_the_time(start, cache, tmp_path, strategy):
    """With features kept and without, a run has the same losses and gets the same photos right."""
    config = small(strategy, start, 3, **{"transfer.views": 2, "optimizer.momentum": 0.5})

    kept = train(config, cache, tmp_path / "kept", device="cpu", start=start)
    anew = train(config, cache, tmp_path / "anew", device="cpu", start=start, use_features=False)

    assert kept.val_top1 == anew.val_top1
    for one, other in zip(losses(tmp_path / "kept"), losses(tmp_path / "anew"), strict=True):
        assert one == pytest.approx(other, rel=1e-3)
    answers = [np.load(tmp_path / name / "predictions-val.npz")["probabilities"]
               for name in ("kept", "anew")]  # fmt: skip
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-3)


def go(cache: str, source: str, run_dir: str) -> None:
    """Fine-tune, or go on, as a process of its own."""
    begun = pretrained.read(source)
    config = small("lp-ft", begun, 5, checkpoint_every_steps=2)
    train(config, DatasetCache.open(Path(cache)), Path(run_dir), device="cpu", start=begun)


@pytest.mark.long
def test_kills_at_random_moments_change_nothing(run_dir, cache, tmp_path):
    """SIGKILL while features are made, in the head's phase, after it: the same bits in the end."""
    moments = random.Random(0)

    def process(target: Path):
        begun = PROCESSES.Process(target=go, args=(str(cache.path), str(run_dir), str(target)))
        begun.start()
        return begun

    reference = process(tmp_path / "reference")
    reference.join()
    assert 0 == reference.exitcode
    features = cache.path.parent / "features"
    kills = 0
    while kills < 4:
        # The features are made anew after each kill, and the first comes while they are.
        for path in features.glob("*.npy"):
            path.unlink()
        before = set((tmp_path / "r").glob("checkpoints/step-*"))
        killed = process(tmp_path / "r")
        while killed.exitcode is None:
            saved = set((tmp_path / "r").glob("checkpoints/step-*")) - before
            if saved or (kills == 0 and any(features.glob("*.npy"))):
                killed.join(moments.uniform(0, 0.05))
                break
            time.sleep(0.001)
        assert killed.exitcode is None, "it ended before it was killed"
        killed.kill()
        killed.join()
        kills += 1
    last = process(tmp_path / "r")
    last.join()

    assert 0 == last.exitcode
    assert losses(tmp_path / "reference") == losses(tmp_path / "r")
    newest = [sorted((tmp_path / name / "checkpoints").glob("step-*"))[-1]
              for name in ("reference", "r")]  # fmt: skip
    expected, found = (load_file(path) for path in newest)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_a_run_stopped_before_its_first_checkpoint_asks_for_its_weights(start, cache, tmp_path):
    """Without them it would begin from random ones; other weights are refused, too."""
    config = small("full", start)
    with pytest.raises(RunError, match="weights that it starts from are needed"):
        train(config, cache, tmp_path / "r", device="cpu")
    with pytest.raises(RunError, match="other weights"):
        train(config, cache, tmp_path / "r", device="cpu", start=replace(start, sha256="0" * 64))
    with pytest.raises(StoppedError):
        train(config, cache, tmp_path / "r", device="cpu", start=start, should_stop=lambda: True)
    # From its checkpoint on it needs nobody.
    assert 3 == train(config, cache, tmp_path / "r", device="cpu").epochs


def test_earlier_parts_learn_more_slowly(start):
    """Each part has the rate of the one after it, times the decay; the head has the whole."""
    config = small("full", start, **{"transfer.layer_decay": 0.5})
    learner = Learner(config, 3, torch.device("cpu"), start=start.tensors)

    scales = {
        PARTS[part_of(name)]: group["scale"]
        for group in learner.optimizer.param_groups
        for name, parameter in learner.model.named_parameters()
        if any(parameter is p for p in group["params"])
    }

    assert {p: 0.5 ** (5 - i) for i, p in enumerate(PARTS)} == scales


def test_similarity_knows_the_same_photos_and_other_ones(source, start, cache):
    """The photos that the weights learnt from lie at distance 0; others lie farther off."""
    about = json.loads((source / "config.json").read_text())

    same = measure(DatasetCache.open(Path(about["cache"])), start)
    other = measure(cache, start)
    unknown = measure(cache, replace(start, photos=None))

    assert 0 == pytest.approx(same.distance, abs=1e-6)
    assert other.distance > 0.05
    assert unknown.distance is None
    assert same.small
    assert 16 == same.photos_per_class
    assert "small and " in same.sentences[-1]


def test_a_probe_forgets_nothing_and_is_told_so(source, start, cache, tmp_path):
    """A frozen backbone tells the old classes apart as before, photo by photo."""
    train(small("linear-probe", start), cache, tmp_path / "r", device="cpu", start=start)
    about = json.loads((source / "config.json").read_text())

    kept = retention(start, tmp_path / "r", DatasetCache.open(Path(about["cache"])))

    assert kept.before == kept.after
    assert (0, 0) == (kept.change.gained, kept.change.lost)


def test_old_photos_keep_the_groups_of_their_rule(source, start, cache, tmp_path):
    """Of a folder that is given by its rule; of the source's own cache as they were."""
    from flows.cli.finetune import _old

    photos = cache.path.parent.parent / "photos"
    old = _old(photos, "/([^/]+)/[^/]+$", start, tmp_path / "cache")
    assert set(cache.labels) == set(old.splits["val"].groups)
    kept = retention(start, source, old)
    assert len(cache.labels) == kept.change.groups
    assert not any(_old(photos, "", start, tmp_path / "cache").splits["val"].groups)
    with pytest.raises(UserError, match="--old-group is the rule for --old-photos"):
        _old(None, "folder", start, tmp_path / "cache")


@pytest.mark.long
@pytest.mark.timeout(900)
def test_auto_on_the_command_line_recommends_and_goes_on(run_dir, cache, tmp_path):
    """Every strategy of the field is in the table; the same command again finds what is done."""
    command = [
        sys.executable, "-m", "hansang", "finetune", str(cache.path.parent.parent / "photos"),
        "--from", str(run_dir), "--run", "study", "--epochs", "1", "--seeds", "1",
        "--report-forgetting", "--runs-dir", str(tmp_path / "runs"),
        "--cache-dir", str(cache.path.parent), "--threads", "1", "--set", "batch_size=16", "--json",
        "--among", "full", "--among", "linear-probe", "--keep", "scratch",
    ]  # fmt: skip
    field = {"full", "linear-probe", "scratch"}
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def call():
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert 0 == done.returncode, done.stderr[-3000:]
        return json.loads(done.stdout), done.stderr

    found, said = call()
    written = {
        path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/study/*/*/result.json")
    }
    again, _ = call()

    assert field == {row["strategy"] for row in found["strategies"]}
    assert 5 <= len(written) <= 6
    assert found["strategies"] == again["strategies"]
    assert written == {path: path.stat().st_mtime_ns for path in written}
    assert found["recommended"] in found["release"]
    assert "by the four-way rule" in said
    assert 0 <= found["retention"]["after"] <= 1
    page = (tmp_path / "runs/study/report.html").read_text()
    assert all(name in page for name in field)
    assert found["recommended"] + " is recommended" in page
