"""A batch shared by processes, or computed in parts; what is measured of a finished run."""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from training import checkpoint
from training.augment import draw
from training.calibration import expected_calibration_error, fit_temperature, softmax
from training.config import TrainConfig
from training.device import largest_micro_batch
from training.engine import Engine
from training.errors import ConfigError, RunError
from training.intervals import mean_interval, wilson_of
from training.order import Order, class_weights
from training.prepare import prepare
from training.resnet import Served, build
from training.trainer import train
from training.world import World, joined

ROOT = Path(__file__).parents[2]


def command(photos: Path, home: Path, *more: str) -> list[str]:
    """Return the command line of a small run in `home`."""
    return [
        sys.executable, "-m", "training", str(photos), "--run", "r", "--epochs", "2",
        "--image-size", "32", "--batch-size", "12", "--set", "augment.cutmix=1",
        "--set", "optimizer.lr=1e-6",
        "--threads", "1", "--runs-dir", str(home / "runs"), "--cache-dir", str(home / "cache"),
        *more,
    ]  # fmt: skip


def metrics(home: Path) -> list[dict[str, float]]:
    """Return the epochs of the run in `home`."""
    text = (home / "runs" / "r" / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.long
def test_two_processes_learn_what_one_does_and_exchange_checkpoints(dishes, tmp_path):
    """Two processes over gloo: the same photos in the same steps; one goes on where two stopped."""
    two = subprocess.Popen(
        command(dishes, tmp_path / "two", "--nproc", "2"),
        cwd=ROOT, stderr=subprocess.PIPE, text=True, env={**os.environ, "HANSANG_PROGRESS_S": "0"},
    )  # fmt: skip
    for line in two.stderr:
        if line.startswith("train: 5/"):
            two.send_signal(signal.SIGTERM)
    two.communicate()
    assert 75 == two.returncode
    state = checkpoint.load(sorted((tmp_path / "two/runs/r/checkpoints").glob("step-*"))[-1])[1]
    assert 5 <= state["step"] <= 7

    subprocess.run(command(dishes, tmp_path / "two"), cwd=ROOT, check=True, capture_output=True)
    subprocess.run(command(dishes, tmp_path / "one"), cwd=ROOT, check=True, capture_output=True)

    one, other = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    assert [e["steps"] for e in one] == [e["steps"] for e in other]
    # BatchNorm sees half a batch in each process, so the losses are near, not equal.
    assert one[0]["train_loss"] == pytest.approx(other[0]["train_loss"], rel=0.15)


def fixed_step(rank: int, size: int, port: int, out: Path) -> None:
    """Take a step as one of `size` processes, with BatchNorm's statistics fixed; save weights."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank),
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}  # fmt: skip
    torch.set_num_threads(1)
    config = TrainConfig(image_size=32, batch_size=8, precision="fp32")
    config = config.with_overrides({"augment.cutmix": 1})
    images = torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (8, 37, 37, 3), dtype=np.uint8)
    )
    draws = draw(8, config.augment, seed=0, step=0)
    with joined(cuda=False) as world:
        engine = Engine(config, 3, torch.device("cpu"), world=world)
        fix_statistics(engine)
        part = world.part(8)
        engine.step(images[part], (torch.arange(8) % 3)[part], draws[part], size=32, lr=0.1)
        if world.leads:
            torch.save(engine.model.state_dict(), out)


def fix_statistics(engine: Engine) -> None:
    """Keep BatchNorm from looking at the batch: then nothing but the sum of gradients is left."""
    for module in engine.model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.train = lambda mode=True, module=module: module  # noqa: ARG005  # noqa: ARG005
            module.training = False


def test_a_shared_step_is_the_step_of_one(tmp_path):
    """Two processes that share a batch end with the weights of one that computes all of it."""
    processes = multiprocessing.get_context("spawn")
    for size in (1, 2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        started = [
            processes.Process(target=fixed_step, args=(rank, size, port, tmp_path / f"{size}.pt"))
            for rank in range(size)
        ]
        for process in started:
            process.start()
        for process in started:
            process.join()
            assert 0 == process.exitcode

    one, two = (torch.load(tmp_path / f"{size}.pt", weights_only=True) for size in (1, 2))

    start = build(3, seed=0).state_dict()
    assert all(torch.allclose(one[name], two[name], atol=2e-5) for name in one)
    assert not torch.allclose(one["fc.weight"], start["fc.weight"], atol=1e-4)


@pytest.mark.long
def test_torchrun_itself_starts_a_run_and_a_bad_batch_is_refused(dishes, tmp_path):
    """The plain `torchrun -m training` works; a batch that cannot be shared is one sentence."""
    # "--": on some Pythons torchrun takes what follows, such as --run, for options of its own.
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone",
                "--nproc-per-node", "2", "-m", "--", *command(dishes, tmp_path)[2:]]  # fmt: skip

    done = subprocess.run(torchrun, cwd=ROOT, capture_output=True, text=True)
    odd = subprocess.run(
        [*torchrun, "--run", "odd", "--batch-size", "13", "--set", "augment.cutmix=0"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip

    assert 0 == done.returncode, done.stderr
    assert 2 == len(metrics(tmp_path))
    assert 1 == odd.returncode
    assert "13 photos cannot be shared equally by 2 processes; try --batch-size 12" in odd.stderr


@pytest.mark.long
@pytest.mark.timeout(900)
def test_two_machines_end_with_the_weights_of_one(dishes, tmp_path):
    """Two agents of torchrun, as on two machines that see one folder: one run, the same bits."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    agents = [
        subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--node-rank",
             str(node), "--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port",
             str(port), "-m", "--", *command(dishes, tmp_path / "nodes")[2:]],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for node in range(2)
    ]  # fmt: skip
    printed = [agent.communicate(timeout=240)[0] for agent in agents]
    assert [0, 0] == [agent.returncode for agent in agents], printed
    for home, num_processes in (("one", "2"), ("alone", "1")):
        subprocess.run(
            command(dishes, tmp_path / home, "--nproc", num_processes),
            cwd=ROOT, check=True, capture_output=True,
        )  # fmt: skip

    (nodes, seen), (one, known), (alone, _) = (
        checkpoint.load(sorted((tmp_path / home / "runs/r/checkpoints").glob("step-*"))[-1])
        for home in ("nodes", "one", "alone")
    )

    assert known["step"] == seen["step"] > 0
    assert one.keys() == nodes.keys()
    assert all(torch.equal(one[name], nodes[name]) for name in one)
    # BatchNorm sees other halves in one process: what is compared does tell runs apart.
    assert not all(torch.equal(one[name], alone[name]) for name in one)


def test_a_share_of_a_batch_is_equal_and_complete():
    """The parts of all the ranks are the batch."""
    parts = [World(rank=rank, size=3).part(12) for rank in range(3)]

    assert list(range(12)) == [row for part in parts for row in range(12)[part]]
    with pytest.raises(ConfigError, match="try --batch-size 12"):
        World(size=3).part(13)


def test_gradients_of_parts_add_up_to_those_of_the_batch():
    """A step in micro-batches is that of the whole batch, but for BatchNorm's statistics."""
    config = TrainConfig(image_size=32, batch_size=8, precision="fp32")
    images = torch.randint(0, 256, (8, 37, 37, 3), dtype=torch.uint8)
    targets = torch.arange(8) % 3
    weights = []
    for micro in (0, 2):
        engine = Engine(config.with_overrides({"micro_batch_size": micro}), 3, torch.device("cpu"))
        fix_statistics(engine)
        loss = engine.step(
            images, targets, draw(8, config.augment, seed=0, step=0), size=32, lr=0.1
        )
        weights.append((loss, engine.model.fc.weight.detach().clone()))

    assert torch.allclose(weights[0][0], weights[1][0], rtol=1e-5)
    assert torch.allclose(weights[0][1], weights[1][1], atol=1e-5)


def test_the_largest_part_that_fits_is_found_by_halving():
    """A device with room for 20 photos computes 64 in parts of 16; too small a one is told."""
    assert 16 == largest_micro_batch(64, lambda size: size <= 20)
    assert 64 == largest_micro_batch(64, lambda _: True)
    with pytest.raises(RunError, match="no memory for 6 photos"):
        largest_micro_batch(24, lambda _: False)


def test_out_of_memory_names_what_to_try(monkeypatch):
    """A batch that does not fit is an error for people, with a size to try."""
    engine = Engine(TrainConfig(image_size=32, batch_size=8), 3, torch.device("cpu"))

    def too_large(inputs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(engine, "_network", too_large)
    images = torch.zeros(8, 37, 37, 3, dtype=torch.uint8)
    with pytest.raises(RunError, match=r"--batch-size auto, or --set micro_batch_size=4"):
        engine.step(
            images, torch.zeros(8, dtype=torch.long),
            draw(8, engine.config.augment, seed=0, step=0), size=32, lr=0.1,
        )  # fmt: skip


def test_no_photo_is_left_out_of_the_line_of_epochs():
    """Batches of 4 out of epochs of 10: after two epochs each photo was seen twice."""
    order = Order(np.zeros(10, np.int64), 4, seed=0)

    seen = np.concatenate([order.rows(step) for step in range(order.steps_before(2))])

    assert [0, 2, 5] == [order.steps_before(epoch) for epoch in range(3)]
    assert [2] * 10 == np.bincount(seen).tolist()
    assert sorted(seen[:10]) == list(range(10))


def test_rare_classes_are_drawn_more_often():
    """With power 1 every class gets the same number of draws, give or take one a photo."""
    targets = np.array([0] * 80 + [1] * 20)
    order = Order(targets, 10, seed=0, weights=class_weights(targets, 2, 1.0))

    drawn = np.concatenate([order.rows(step) for step in range(10)])

    assert 50 == pytest.approx(np.bincount(targets[drawn])[0], abs=1)
    assert np.bincount(drawn, minlength=100)[80:].min() >= 2


def test_intervals_are_the_tabulated_ones():
    """Wilson's and Student's intervals agree with SciPy 1.17's and with printed tables."""
    for right, photos, low, high in [
        (0, 10, 0.0, 0.277532800), (773, 1244, 0.594094230, 0.647923695),
        (1764, 1764, 0.997827034, 1.0),
    ]:  # fmt: skip
        assert (low, high) == pytest.approx(wilson_of(right, photos), abs=1e-8)
    assert (2.0, pytest.approx(4.302653 / 3**0.5, rel=1e-6)) == mean_interval([1, 2, 3])


def test_a_temperature_mends_confidence_and_leaves_the_answers():
    """Logits blown up threefold get a temperature of three, and calibration follows."""
    random = np.random.default_rng(0)
    logits = random.normal(size=(4000, 5)).astype(np.float32) * 1.5
    targets = np.array([random.choice(5, p=p / p.sum()) for p in softmax(logits)])
    loud = logits * 3

    temperature = fit_temperature(loud, targets)

    assert 3 == pytest.approx(temperature, rel=0.1)
    before = expected_calibration_error(softmax(loud), targets)
    after = expected_calibration_error(softmax(loud, temperature), targets)
    assert after < before / 4
    assert np.allclose(torch.from_numpy(loud).softmax(1).numpy(), softmax(loud), atol=1e-6)


def test_what_is_served_has_the_temperature_and_the_mirror_image():
    """The graph averages logits over a photo and its mirror image, then divides them."""
    model = build(3, seed=0).eval()
    images = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    plain = Served(model).eval()

    with torch.no_grad():
        logits = plain(images).log()
        mirrored = plain(images.flip(2)).log()
        served = Served(model, flip_average=True, temperature=2.0).eval()(images)

    assert torch.allclose(((logits + mirrored) / 4).softmax(1), served, atol=1e-5)


def test_early_stopping_and_class_balance_train(dishes, tmp_path):
    """A run that gets no better ends early; balance and averages run through to a result."""
    cache = prepare(dishes, 32, cache_root=tmp_path / "cache")
    config = TrainConfig(image_size=32, epochs=30, batch_size=12, early_stopping_epochs=2)
    config = config.with_overrides(
        {"optimizer.lr": 1e-9, "balance": "sampling", "flip_average": True, "optimizer.ema": 0.9}
    )

    result = train(config, cache, tmp_path / "r", device="cpu")
    balanced = train(
        config.with_overrides({"epochs": 1, "balance": "loss"}), cache, tmp_path / "b", device="cpu"
    )

    assert result.epochs < 30
    assert result.epochs == result.best_epoch + 2
    assert 1 == balanced.epochs
    arrays = np.load(tmp_path / "r" / "predictions-val.npz")
    assert result.val_top1 == (arrays["probabilities"].argmax(1) == arrays["targets"]).mean()
    assert arrays["files"].tolist() == list(cache.splits["val"].files)
