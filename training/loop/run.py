"""A run between two steps, and all that can happen to it: steps, the end of an epoch, a save.

The photos of a step are a function of (seed, epoch), the augmentation of (seed, step), the learning
rate of the step. So a checkpoint is weights, optimizer state and counters, and a run that resumes
at any step continues exactly.
"""

import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from terminal import Progress, no_progress, say
from training.config import TrainConfig
from training.data.cache import DatasetCache
from training.data.loader import Placement
from training.distributed.world import ALONE, World
from training.errors import DivergedError, RunError, StoppedError
from training.loop.annealed_preview import annealed_preview
from training.loop.batches import BatchPlan, sampler_for
from training.loop.learner import Learner
from training.loop.saving import Writer, copied, update_files, write
from training.loop.schedule import learning_rate
from training.loop.state import restore, tensors_of
from training.model.pretrained import Start
from training.runs import checkpoint
from training.runs.run_record import best_of


class Run:
    """A run in its directory, which the caller has locked; call `resume` first.

    Its checkpoints are written by `writer`, whose `with` block the caller enters.
    """

    def __init__(
        self,
        config: TrainConfig,
        cache: DatasetCache,
        run_dir: Path,
        device: torch.device,
        *,
        placement: Placement = "auto",
        start: Start | None = None,
        use_features: bool = True,
        world: World = ALONE,
        should_stop: Callable[[], bool] = lambda: False,
        progress: Progress = no_progress,
    ) -> None:
        """Build the model and place the photos; `train` explains the arguments.

        Raises:
            RunError: `start` has other weights than the config names.
            ConfigError: The device cannot have this placement, or a setting does not fit the data.
        """
        self.config = config
        self.cache = cache
        self.run_dir = run_dir
        self.checkpoints = run_dir / "checkpoints"
        self.world = world
        self.should_stop = should_stop
        self.progress = progress
        self.writer = Writer()
        self.sampler, weights = sampler_for(config, cache)
        self.learner = Learner(
            config, len(cache.labels), device, world=world,
            class_weights=weights if config.balance == "loss" else None,
            start=None if start is None else start.for_config(config),
        )  # fmt: skip
        self.has_start = start is not None
        self.steps = self.sampler.steps_before(config.epochs)
        self.batches = BatchPlan(
            config, cache, self.learner, self.sampler, placement, world,
            use_features=use_features, after_batch=self._report_features,
        )  # fmt: skip
        # All that a checkpoint holds beside the tensors of the learner:
        self.epoch = self.step = 0
        self.train_s = self.waited_s = self.save_s = 0.0
        self.history: list[dict[str, Any]] = []
        self.loss_sum = torch.zeros((), device=device)
        self.bad_step = torch.full((), -1, dtype=torch.int64, device=device)
        if world.leads:
            computing = f"{self.learner.precision}{', compiled' if self.learner.compiled else ''}"
            say(f"photos: {self.batches.photos.description}; {computing} on {device.type}")

    @property
    def unfinished(self) -> bool:
        """Whether epochs are left, and early stopping has not ended the run."""
        patience = self.config.early_stopping_epochs
        if patience and self.history and self.epoch - self.best["epoch"] >= patience:
            return False
        return self.epoch < self.config.epochs

    @property
    def steps_done(self) -> int:
        """Steps taken of this epoch."""
        return self.step - self.sampler.steps_before(self.epoch)

    @property
    def photos_per_s(self) -> float:
        """Trained a second in this epoch so far, by all processes together."""
        return self.steps_done * self.sampler.batch_size / max(self.train_s, 1e-9)

    @property
    def best(self) -> dict[str, Any]:
        """The line of the best epoch so far."""
        return best_of(self.history)

    def resume(self) -> None:
        """Continue from the newest good checkpoint, and make the files beside it agree with it.

        Raises:
            RunError: Every checkpoint is damaged; or there is none, and the weights that the run
                starts from were not given.
        """
        name = None
        if self.world.leads:
            self.checkpoints.mkdir(exist_ok=True)
            name = checkpoint.newest_good(self.checkpoints)
        name = self.world.share(name)
        if name is None:
            self.require_start()
            return
        tensors, state = checkpoint.load(self.checkpoints / name)
        restore(self.learner, tensors)
        self.loss_sum = tensors["loss_sum"].to(self.learner.device)
        self.epoch, self.step = state["epoch"], state["step"]
        self.train_s, self.waited_s = state["train_s"], state["data_wait_s"]
        self.save_s = state.get("save_s", 0.0)
        self.history = state["history"]
        if self.world.leads:
            update_files(self.run_dir, self.step, self.epoch, self.history)

    def train_epoch(self) -> None:
        """Take the steps that are left of this epoch.

        Raises:
            DivergedError: The loss or a weight is not finite.
            StoppedError: The run was asked to stop; a checkpoint is saved.
        """
        last = self.sampler.steps_before(self.epoch + 1)
        self.batches.enter(self.epoch)
        loader = self.batches.train_loader
        # The time of steps alone, without that of saves between them.
        started_s = time.perf_counter() - self.train_s - self.save_s
        waited_before_s = loader.waited_s - self.waited_s
        for data in self.batches.steps(self.step, last, self.epoch):
            loss = self.learner.step(data, lr=self._learning_rate(self.step))
            self.learner.update_average(self.step)
            self.loss_sum += loss
            # Recorded on the device: reading it after each step would make CUDA wait.
            first_bad = (self.bad_step < 0) & ~torch.isfinite(loss)
            self.bad_step = torch.where(first_bad, self.step, self.bad_step)
            self.step += 1
            self.train_s = time.perf_counter() - started_s - self.save_s
            self.waited_s = loader.waited_s - waited_before_s
            on_cpu = self.learner.device.type == "cpu"
            if on_cpu:
                self._require_finite()
            if on_cpu or self.step % 10 == 0:
                self.progress(self.step, self.steps, self._note())
            self._save_and_stop_if_asked()
            self.writer.check()
            if self.steps_done % self.config.checkpoint_every_steps == 0 and self.step < last:
                self._save()
        # Reading a value waits for the device, so that the time includes all of its work.
        self._require_finite()
        self.train_s = time.perf_counter() - started_s - self.save_s

    def end_epoch(self) -> None:
        """Validate, add a line to the metrics, and save; the best epoch so far is kept."""
        started_s = time.perf_counter()
        evaluation = self.learner.evaluate(self.batches.val_loader, self._save_and_stop_if_asked)
        self.history.append(
            {
                "epoch": self.epoch + 1,
                "train_loss": self.loss_sum.item() / max(self.steps_done, 1),
                "val_loss": evaluation.loss,
                "val_top1": evaluation.top1,
                "learning_rate": self._learning_rate(self.step - 1),
                "train_size": self.batches.size_at(self.epoch),
                "steps": self.step,
                "photos_per_s": self.photos_per_s,
                "train_s": self.train_s,
                "data_wait_s": self.waited_s,
                "eval_s": time.perf_counter() - started_s,
                # Since the line before, so without the save below.
                "save_s": self.save_s,
                "features_s": self.batches.features_s,
            }
        )
        self.batches.features_s = 0.0
        self.epoch += 1
        self.train_s = self.waited_s = self.save_s = 0.0
        self.loss_sum.zero_()
        self._save()

    def annealed_preview(self) -> float:
        """Return the best top-1 that the run would have if its schedule were annealed now."""
        preview = annealed_preview(
            self.learner, self.sampler, self.batches.photos, self.batches.val_photos,
            self._learning_rate, epoch=self.epoch, after_batch=self.stop_if_asked,
        )  # fmt: skip
        return max(preview, float(self.best["val_top1"]))

    def require_start(self) -> None:
        """Raise a RunError if the run begins from weights that were not given."""
        if self.config.transfer.weights and not self.has_start:
            raise RunError(
                f"{self.run_dir} has no checkpoint to go on from, so the weights that it starts"
                " from are needed: give the command that began it, hansang finetune … --from …"
            )

    def stop_if_asked(self, save: Callable[[], None] = lambda: None) -> None:
        """Raise a StoppedError if any process was asked to stop, after `save`.

        Without `save`, the newest checkpoint must be that of the end of an epoch.
        """
        if not self.world.any(self.should_stop()):
            return
        save()
        self.written()
        raise StoppedError(
            f"stopped at epoch {min(self.epoch + 1, self.config.epochs)}, step {self.step};"
            " the checkpoint is saved: the same command goes on"
        )

    def written(self) -> None:
        """Return when the newest checkpoint is written, whichever process writes it.

        Raises:
            RunError: It could not be written.
        """
        self.writer.wait()
        self.world.wait()

    def _save_and_stop_if_asked(self) -> None:
        self.stop_if_asked(self._save)

    def _report_features(self, done: int, total: int) -> None:
        self.progress(self.step, self.steps, f"features of {done:,} of {total:,} views")
        if self.world.size == 1:
            self._save_and_stop_if_asked()

    def _learning_rate(self, step: float) -> float:
        losses = [epoch["val_loss"] for epoch in self.history]
        per_epoch = len(self.cache.splits["train"].targets) / self.sampler.batch_size
        return learning_rate(self.config, step, per_epoch, losses)

    def _note(self) -> str:
        note = f"epoch {self.epoch + 1}, {self.photos_per_s:.0f} photos/s"
        if self.history:
            note += f", val {self.history[-1]['val_top1']:.1%}, best {self.best['val_top1']:.1%}"
        return note

    def _require_finite(self) -> None:
        # Every process calls this at the same steps, so all of them raise.
        self.loss_sum = self.world.sum(self.loss_sum) / self.world.size
        step = int(self.bad_step.item())
        if step < 0 and math.isfinite(self.loss_sum.item()):
            return
        raise self._diverged("the loss is", step if step >= 0 else self.step - 1)

    def _diverged(self, what: str, step: int) -> DivergedError:
        return DivergedError(
            f"{what} not finite at step {step} (epoch {self.epoch + 1}), with learning rate"
            f" {self._learning_rate(step):.3g}; try a tenth of it under another --run"
            f" (--set optimizer.lr={self.config.optimizer.lr / 10:g}), or --set"
            f" optimizer.clip_norm=1. The last good checkpoint is kept in {self.checkpoints}"
        )

    def _save(self) -> None:
        # First wait for the device: the time of its steps is not the time of saving.
        self._require_finite()
        started_s = time.perf_counter()
        tensors = tensors_of(self.learner)
        # The last loss is that of the weights before the last step, which may have spoilt them.
        if self.world.any(not checkpoint.all_finite(tensors)):
            raise self._diverged("the weights are", self.step - 1)
        if self.world.leads:
            state = {"epoch": self.epoch, "step": self.step, "train_s": self.train_s,
                     "data_wait_s": self.waited_s, "save_s": self.save_s,
                     "history": list(self.history)}  # fmt: skip
            # Not before the last one is written, so that no more than one copy is held.
            self.writer.wait()
            tensors = copied({**tensors, "loss_sum": self.loss_sum})
            self.writer.begin(partial(write, self.run_dir, self.step, tensors, state))
        self.save_s += time.perf_counter() - started_s
