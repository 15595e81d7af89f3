"""A run from its first step to its last, through any number of deaths in between.

order = f(seed, epoch); augmentation = f(seed, step); learning rate = f(step). So a checkpoint is
weights, optimizer state, and where the run was: a run resumed at any step is exact.
"""

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from terminal import Progress, no_progress
from training import checkpoint, run_directory
from training.cache import DatasetCache
from training.config import TrainConfig
from training.engine import Engine, device_of
from training.errors import RunError
from training.files import write_text
from training.schedule import learning_rate


class StoppedError(RunError):
    """The run was asked to stop, and saved a checkpoint first."""

    exit_code = 75
    """EX_TEMPFAIL: the same command goes on."""


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a finished run reached."""

    run_dir: Path
    epochs: int
    best_epoch: int
    """From 1; the highest validation top-1, of equal ones the lowest loss, then the first."""
    val_top1: float
    val_loss: float
    test_top1: float | None
    """Measured once, with the best weights, and used to choose nothing; None without a split."""
    photos_per_s: float
    """Mean over the epochs, of training steps alone."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {**asdict(self), "run_dir": str(self.run_dir)}


def train(
    config: TrainConfig,
    cache: DatasetCache,
    run_dir: Path,
    *,
    device: str = "auto",
    should_stop: Callable[[], bool] = lambda: False,
    progress: Progress = no_progress,
) -> TrainResult:
    """Train, or go on with the run that began in `run_dir`.

    Raises:
        StoppedError: `should_stop` said so; a checkpoint was saved.
        RunError: The directory is in use, of another run, or not writable; the loss is not finite.
        ConfigError: The device cannot be had.
    """
    with run_directory.locked(run_dir):
        cores = len(os.sched_getaffinity(0))
        about = run_directory.open_or_create(run_dir, config, cache, config.threads or cores)
        # Sums on a CPU depend on the number of threads: a resumed run keeps its own.
        torch.set_num_threads(about["threads"])
        run = _Run(config, cache, run_dir, device_of(device), should_stop, progress)
        try:
            run.resume()
            while run.epoch < config.epochs:
                run.train_epoch()
                run.end_epoch()
            return run.finish()
        except OSError as error:
            raise RunError(
                f"{run_dir} cannot be written: {error.strerror or error}; free some space or mend"
                " the folder, and run the same command again: it goes on from the last checkpoint"
            ) from error


class _Run:
    def __init__(
        self,
        config: TrainConfig,
        cache: DatasetCache,
        run_dir: Path,
        device: torch.device,
        should_stop: Callable[[], bool],
        progress: Progress,
    ) -> None:
        self.config = config
        self.cache = cache
        self.run_dir = run_dir
        self.checkpoints = run_dir / "checkpoints"
        self.should_stop = should_stop
        self.progress = progress
        self.engine = Engine(config, len(cache.labels), device)
        self.photos = cache.splits["train"]
        self.batch_size = min(config.batch_size, len(self.photos.targets))
        self.steps_per_epoch = len(self.photos.targets) // self.batch_size
        # All that a checkpoint holds beside the tensors of the model and the optimizer:
        self.epoch = 0
        self.batch = 0
        self.train_s = 0.0
        self.loss_sum = torch.zeros((), device=device)
        self.history: list[dict[str, Any]] = []

    @property
    def step(self) -> int:
        return self.epoch * self.steps_per_epoch + self.batch

    @property
    def photos_per_s(self) -> float:
        """Of this epoch so far, over all the processes that trained it."""
        return self.batch * self.batch_size / self.train_s

    @property
    def best(self) -> dict[str, Any]:
        # max keeps the first of equal ones.
        return max(self.history, key=lambda epoch: (epoch["val_top1"], -epoch["val_loss"]))

    def resume(self) -> None:
        """Go to where the newest good checkpoint is; bring the files beside it in line with it."""
        self.checkpoints.mkdir(exist_ok=True)
        found = checkpoint.newest_good(self.checkpoints)
        if found is None:
            return
        tensors, state = found
        checkpoint.restore(self.engine.model, self.engine.optimizer, tensors)
        self.loss_sum = tensors["loss_sum"].to(self.engine.device)
        self.epoch, self.batch = state["epoch"], state["batch"]
        self.train_s = state["train_s"]
        self.history = state["history"]
        self._settle()

    def train_epoch(self) -> None:
        """Take the steps that are left of this epoch."""
        started_s = time.perf_counter() - self.train_s
        order = self._order()
        while self.batch < self.steps_per_epoch:
            # Sorted rows are read in the order of the disk.
            rows = np.sort(order[self.batch * self.batch_size :][: self.batch_size])
            rate = self._learning_rate()
            loss = self.engine.step(
                self.photos.images[rows], self.photos.targets[rows], step=self.step, lr=rate
            )
            self.loss_sum += loss
            self.batch += 1
            on_cpu = self.engine.device.type == "cpu"
            if on_cpu or self.batch % 50 == 0:
                self._require_finite(loss, rate)
            self.train_s = time.perf_counter() - started_s
            if on_cpu or self.batch % 10 == 0:
                self.progress(self.step, self.config.epochs * self.steps_per_epoch, self._note())
            self._stop_if_asked()
            if self.batch % self.config.checkpoint_every_steps == 0:
                self._require_finite(self.loss_sum, rate)
                self._save()

    def end_epoch(self) -> None:
        """Validate, write the epoch down, and keep it if it is the best."""
        rate = self._learning_rate(at=self.step - 1)
        self._require_finite(self.loss_sum, rate)
        evaluation = self.engine.evaluate(self.cache.splits["val"], self._stop_if_asked)
        self.history.append(
            {
                "epoch": self.epoch + 1,
                "train_loss": self.loss_sum.item() / self.steps_per_epoch,
                "val_loss": evaluation.loss,
                "val_top1": evaluation.top1,
                "learning_rate": rate,
                "photos_per_s": self.photos_per_s,
                "steps": self.step,
            }
        )
        self.epoch, self.batch, self.train_s = self.epoch + 1, 0, 0.0
        self.loss_sum.zero_()
        self._save()

    def finish(self) -> TrainResult:
        """Measure the best epoch on the test split, and write the result down."""
        best = self.best
        test_top1 = None
        if "test" in self.cache.splits:
            tensors, _ = checkpoint.load(self.checkpoints / checkpoint.BEST)
            self.engine.model.load_state_dict(checkpoint.model_tensors(tensors))
            test_top1 = self.engine.evaluate(self.cache.splits["test"]).top1
        rates = [epoch["photos_per_s"] for epoch in self.history]
        result = TrainResult(
            run_dir=self.run_dir,
            epochs=self.epoch,
            best_epoch=best["epoch"],
            val_top1=best["val_top1"],
            val_loss=best["val_loss"],
            test_top1=test_top1,
            photos_per_s=sum(rates) / len(rates),
        )
        write_text(self.run_dir / "result.json", json.dumps(result.to_dict(), indent=2))
        return result

    def _stop_if_asked(self) -> None:
        if not self.should_stop():
            return
        self._require_finite(self.loss_sum, self._learning_rate(at=self.step - 1))
        self._save()
        raise StoppedError(
            f"stopped at epoch {self.epoch + 1}, step {self.step}; the checkpoint is saved:"
            " the same command goes on"
        )

    def _order(self) -> NDArray[np.int64]:
        random = np.random.Generator(np.random.Philox(key=[self.config.seed, self.epoch]))
        return random.permutation(len(self.photos.targets))

    def _learning_rate(self, at: int | None = None) -> float:
        losses = [epoch["val_loss"] for epoch in self.history]
        step = self.step if at is None else at
        return learning_rate(self.config, step, self.steps_per_epoch, losses)

    def _note(self) -> str:
        note = f"epoch {self.epoch + 1}, {self.photos_per_s:.0f} photos/s"
        if self.history:
            note += f", val {self.history[-1]['val_top1']:.1%}, best {self.best['val_top1']:.1%}"
        return note

    def _require_finite(self, loss: Tensor, rate: float) -> None:
        if not math.isfinite(loss.item()):
            raise RunError(
                f"the loss is {loss.item()} at step {self.step} (epoch {self.epoch + 1}), with"
                f" learning rate {rate:.3g}; try a tenth of it under another --run"
                f" (--set optimizer.lr={self.config.optimizer.lr / 10:g}). The last good checkpoint"
                f" is kept in {self.checkpoints}"
            )

    def _save(self) -> None:
        tensors = {
            **{f"model.{name}": value for name, value in self.engine.model.state_dict().items()},
            **checkpoint.optimizer_tensors(self.engine.optimizer),
            "loss_sum": self.loss_sum,
        }
        state = {
            "epoch": self.epoch,
            "batch": self.batch,
            "train_s": self.train_s,
            "history": self.history,
        }
        checkpoint.save(checkpoint.path_of(self.checkpoints, self.step), tensors, state)
        self._settle()

    def _settle(self) -> None:
        """Make best, metrics and the checkpoints kept follow from the newest checkpoint.

        Done after each save and each resume, so a kill between any two of these is mended.
        """
        at_end_of_best = self.batch == 0 and self.history and self.best["epoch"] == self.epoch
        if at_end_of_best:
            checkpoint.link_best(self.checkpoints, self.step)
        run_directory.write_metrics(self.run_dir, self.history)
        checkpoint.prune(self.checkpoints)
