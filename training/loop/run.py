"""What a run is between two steps, and all that can happen to it: a step, an epoch, a save.

order = f(seed, epoch); augmentation = f(seed, step); learning rate = f(step). So a checkpoint is
weights, optimizer state, and where the run was: a run resumed at any step is exact.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from terminal import Progress, say
from training.config import TrainConfig
from training.data.cache import DatasetCache
from training.data.loader import Placement
from training.data.sampler import Order, class_weights
from training.distributed.world import World
from training.errors import DivergedError, RunError, StoppedError
from training.loop.annealed_preview import as_if_ended
from training.loop.batches import Lessons
from training.loop.schedule import learning_rate
from training.loop.state import restore, tensors_of
from training.loop.step import Engine
from training.model.pretrained import Start
from training.runs import checkpoint, run_directory


class Run:
    """A run in its directory, which the caller holds locked; `resume` first."""

    def __init__(
        self,
        config: TrainConfig,
        cache: DatasetCache,
        run_dir: Path,
        device: torch.device,
        placement: Placement,
        start: Start | None,
        use_features: bool,
        world: World,
        should_stop: Callable[[], bool],
        progress: Progress,
    ) -> None:
        self.config = config
        self.cache = cache
        self.run_dir = run_dir
        self.checkpoints = run_dir / "checkpoints"
        self.world = world
        self.should_stop = should_stop
        self.progress = progress
        targets = cache.splits["train"].targets
        weights = None
        if config.balance != "none":
            weights = class_weights(targets, len(cache.labels), config.balance_power)
        self.engine = Engine(
            config,
            len(cache.labels),
            device,
            world=world,
            class_weights=weights if config.balance == "loss" else None,
            start=None if start is None else start.for_config(config),
        )
        self.starts = start is not None
        self.order = Order(
            targets,
            config.batch_size,
            seed=config.seed,
            weights=weights if config.balance == "sampling" else None,
        )
        self.steps = self.order.steps_before(config.epochs)
        self.lessons = Lessons(
            config, cache, self.engine, self.order, placement, world,
            use_features=use_features, after_batch=self._note_features,
        )  # fmt: skip
        # All that a checkpoint holds beside the tensors of the model and the optimizer:
        self.epoch = 0
        self.step = 0
        self.train_s = 0.0
        self.waited_s = 0.0
        self.save_s = 0.0
        self.history: list[dict[str, Any]] = []
        self.loss_sum = torch.zeros((), device=device)
        self.bad_step = torch.full((), -1, dtype=torch.int64, device=device)
        if world.leads:
            computing = f"{self.engine.precision}{', compiled' if self.engine.compiled else ''}"
            say(f"photos: {self.lessons.photos.description}; {computing} on {device.type}")

    @property
    def unfinished(self) -> bool:
        """Return whether there are epochs left, and they are still worth while."""
        patience = self.config.early_stopping_epochs
        if patience and self.history and self.epoch - self.best["epoch"] >= patience:
            return False
        return self.epoch < self.config.epochs

    @property
    def steps_done(self) -> int:
        """Return the steps taken of this epoch."""
        return self.step - self.order.steps_before(self.epoch)

    @property
    def photos_per_s(self) -> float:
        """Of this epoch so far, over all the processes that trained it."""
        return self.steps_done * self.order.batch_size / max(self.train_s, 1e-9)

    @property
    def best(self) -> dict[str, Any]:
        """Return the line of the best epoch so far."""
        # max keeps the first of equal ones.
        return max(self.history, key=lambda epoch: (epoch["val_top1"], -epoch["val_loss"]))

    def resume(self) -> None:
        """Go to where the newest good checkpoint is; bring the files beside it in line with it."""
        name = None
        if self.world.leads:
            self.checkpoints.mkdir(exist_ok=True)
            name = checkpoint.newest_good(self.checkpoints)
        name = self.world.share(name)
        if name is None:
            self.require_start()
            return
        tensors, state = checkpoint.load(self.checkpoints / name)
        restore(self.engine, tensors)
        self.loss_sum = tensors["loss_sum"].to(self.engine.device)
        self.epoch, self.step = state["epoch"], state["step"]
        self.train_s, self.waited_s = state["train_s"], state["data_wait_s"]
        self.save_s = state.get("save_s", 0.0)
        self.history = state["history"]
        self._settle()

    def train_epoch(self) -> None:
        """Take the steps that are left of this epoch."""
        config, lessons = self.config, self.lessons
        last = self.order.steps_before(self.epoch + 1)
        lessons.enter(self.epoch)
        feed, late, size = lessons.feed, lessons.late_at(self.epoch), lessons.size_at(self.epoch)
        # Steps alone: what saving takes meanwhile is taken off.
        started_s = time.perf_counter() - self.train_s - self.save_s
        waited_before_s = feed.waited_s - self.waited_s
        for images, targets in lessons.batches(self.step, last):
            rate = self._learning_rate(self.step)
            draws = lessons.draws(self.step, self.epoch)
            loss = self.engine.step(images, targets, draws, size=size, lr=rate, late=late)
            self.engine.follow(self.step)
            self.loss_sum += loss
            # Noted on the device: asking after each step would make CUDA wait.
            first_bad = (self.bad_step < 0) & ~torch.isfinite(loss)
            self.bad_step = torch.where(first_bad, self.step, self.bad_step)
            self.step += 1
            self.train_s = time.perf_counter() - started_s - self.save_s
            self.waited_s = feed.waited_s - waited_before_s
            on_cpu = self.engine.device.type == "cpu"
            if on_cpu:
                self._require_finite()
            if on_cpu or self.step % 10 == 0:
                self.progress(self.step, self.steps, self._note())
            self._stop_if_asked()
            if self.steps_done % config.checkpoint_every_steps == 0 and self.step < last:
                self._save()
        # Reading a value waits for the device, so that the time is that of the work.
        self._require_finite()
        self.train_s = time.perf_counter() - started_s - self.save_s

    def end_epoch(self) -> None:
        """Validate, write the epoch down, and keep it if it is the best."""
        started_s = time.perf_counter()
        evaluation = self.engine.evaluate(self.lessons.val_feed, self._stop_if_asked)
        self.history.append(
            {
                "epoch": self.epoch + 1,
                "train_loss": self._mean_loss(),
                "val_loss": evaluation.loss,
                "val_top1": evaluation.top1,
                "learning_rate": self._learning_rate(self.step - 1),
                "train_size": self.lessons.size_at(self.epoch),
                "steps": self.step,
                "photos_per_s": self.photos_per_s,
                "train_s": self.train_s,
                "data_wait_s": self.waited_s,
                "eval_s": time.perf_counter() - started_s,
                # Since the line before: that of this epoch's end is still to come.
                "save_s": self.save_s,
                "features_s": self.lessons.features_s,
            }
        )
        self.lessons.features_s = 0.0
        self.epoch += 1
        self.train_s = self.waited_s = self.save_s = 0.0
        self.loss_sum.zero_()
        self._save()

    def as_if_ended(self) -> float:
        """Return the best top-1 that the run would have, did its schedule end about here."""
        guess = as_if_ended(
            self.engine, self.order, self.lessons.photos, self.lessons.val_photos,
            self._learning_rate, epoch=self.epoch, after_batch=self.leave_if_asked,
        )  # fmt: skip
        return max(guess, float(self.best["val_top1"]))

    def require_start(self) -> None:
        """Raise a RunError if the run begins from weights that were not given."""
        if self.config.transfer.weights and not self.starts:
            raise RunError(
                f"{self.run_dir} has no checkpoint to go on from, so the weights that it starts"
                " from are needed: give the command that began it, hansang finetune … --from …"
            )

    def _note_features(self, done: int, total: int) -> None:
        self.progress(self.step, self.steps, f"features of {done:,} of {total:,} views")
        if self.world.size == 1:
            self._stop_if_asked()

    def _mean_loss(self) -> float:
        return self.loss_sum.item() / max(self.steps_done, 1)

    def _stop_if_asked(self) -> None:
        self.leave_if_asked(self._save)

    def leave_if_asked(self, save: Callable[[], None] = lambda: None) -> None:
        """Stop; nothing to save is where the newest checkpoint is that of the end of an epoch."""
        if not self.world.any(self.should_stop()):
            return
        save()
        raise StoppedError(
            f"stopped at epoch {min(self.epoch + 1, self.config.epochs)}, step {self.step};"
            " the checkpoint is saved: the same command goes on"
        )

    def _learning_rate(self, step: float) -> float:
        losses = [epoch["val_loss"] for epoch in self.history]
        per_epoch = len(self.cache.splits["train"].targets) / self.order.batch_size
        return learning_rate(self.config, step, per_epoch, losses)

    def _note(self) -> str:
        note = f"epoch {self.epoch + 1}, {self.photos_per_s:.0f} photos/s"
        if self.history:
            note += f", val {self.history[-1]['val_top1']:.1%}, best {self.best['val_top1']:.1%}"
        return note

    def _require_finite(self) -> None:
        # Every process asks at the same steps, so all of them stop.
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
        # Waits for the steps under way, whose time is not that of saving.
        self._require_finite()
        started_s = time.perf_counter()
        tensors = tensors_of(self.engine)
        # A step may spoil the weights that its loss, of the weights before, tells nothing of.
        if self.world.any(not checkpoint.all_finite(tensors)):
            raise self._diverged("the weights are", self.step - 1)
        if self.world.leads:
            state = {
                "epoch": self.epoch,
                "step": self.step,
                "train_s": self.train_s,
                "data_wait_s": self.waited_s,
                "save_s": self.save_s,
                "history": self.history,
            }
            tensors["loss_sum"] = self.loss_sum
            checkpoint.save(checkpoint.path_of(self.checkpoints, self.step), tensors, state)
            self._settle()
        self.world.wait()
        self.save_s += time.perf_counter() - started_s

    def _settle(self) -> None:
        """Make best, metrics and the checkpoints kept follow from the newest checkpoint.

        Done after each save and each resume, so a kill between any two of these is mended.
        """
        if not self.world.leads:
            return
        at_end_of_epoch = self.history and self.step == self.history[-1]["steps"]
        if at_end_of_epoch and self.best["epoch"] == self.epoch == len(self.history):
            checkpoint.link_best(self.checkpoints, self.step)
        run_directory.write_metrics(self.run_dir, self.history)
        checkpoint.prune(self.checkpoints)
