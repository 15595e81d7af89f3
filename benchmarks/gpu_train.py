"""Training speed on CUDA beside the device's own ceilings, in under nine minutes.

    python benchmarks/gpu_train.py [--device cpu] [--out FOLDER]     also: make gpu-bench

copy, product    what the memory and the tensor cores can do: a large copy, a large bf16 product
bare             forward and backward on tensors that lie on the device ready; and with the step
ours             the trainer's steps: batches by index out of 33,593 resident photos, augmentation,
                 step, eager and compiled, in batches of 256 to 2048

ResNet18, bf16, channels innermost, photos of noise. The stages stand at the end, the telling ones
first: what a machine that is taken away leaves is what matters most.
"""

import dataclasses
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.gpu_stages import rig
from benchmarks.gpu_stages.profiling import spent
from service.pixels.preprocessing import resize_size
from training.config import TrainConfig
from training.data.augment_parameters import sample_parameters
from training.data.cache import Split
from training.data.loader import Loader, loader_for
from training.data.sampler import Sampler
from training.loop.learner import Learner, StepData

Found = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Scale:
    """How large the measurements are."""

    size: int
    photos: int
    batches: tuple[int, ...]
    copy_bytes: int
    product_side: int
    seconds: float


SCALES = {
    "cuda": Scale(224, 33_593, (1024, 256, 512, 2048), 2**32, 8192, 4.0),
    "cpu": Scale(32, 300, (16, 8), 2**22, 128, 0.2),
}
CLASSES = 42


class Bench:
    """The measurements; photos and learners are made once."""

    def __init__(self, device: str) -> None:
        """Make the photos."""
        self.device = torch.device(device, 0) if device == "cuda" else torch.device(device)
        self.scale = SCALES[device]
        self.rows: dict[tuple[int, str], Found] = {}
        side = resize_size(self.scale.size)
        some = np.random.default_rng(0).integers(0, 256, (256, side, side, 3), dtype=np.uint8)
        images = np.empty((self.scale.photos, side, side, 3), np.uint8)
        for start in range(0, len(images), 256):
            images[start : start + 256] = some[: len(images) - start]
        targets = np.arange(self.scale.photos) % CLASSES
        self.split = Split(images, targets, ("",) * self.scale.photos)
        self._loaders: dict[str, Loader] = {}
        self._learners: dict[tuple[Any, ...], Learner] = {}

    def loader(self, placement: Any = "auto") -> Loader:
        """Return the photos in their place."""
        if placement not in self._loaders:
            self._loaders[placement] = loader_for(self.split, self.device, placement)
        return self._loaders[placement]

    def config(self, batch: int, compiling: str, **changes: Any) -> TrainConfig:
        """Return a run's config."""
        return TrainConfig(
            image_size=self.scale.size, batch_size=batch, compile=compiling, precision="bf16"
        ).with_overrides(changes)

    def learner(self, batch: int, compiling: str, **changes: Any) -> Learner:
        """Return a learner; bare and ours have the same one, so that it is compiled once."""
        key = (batch, compiling, *sorted(changes.items()))
        if key not in self._learners:
            self._learners.clear()
            rig.give_back()
            config = self.config(batch, compiling, **changes)
            self._learners[key] = Learner(config, CLASSES, self.device)
        return self._learners[key]

    def rate(self, step: Any) -> float:
        """Return steps a second."""
        return rig.rate(step, self.device.type, seconds=self.scale.seconds)

    def ceilings(self) -> Found:
        """Measure a large copy, a large bf16 product, and taking a batch out of the photos."""
        copies, products = self._copies(), self._products()
        batch = self.scale.batches[0]
        sampler = Sampler(self.split.targets, batch, seed=0)
        loader = self.loader()
        taken = loader.batches(sampler.rows(step) for step in itertools.count())
        batches = self.rate(lambda: next(taken))
        taken.close()  # type: ignore[attr-defined]
        one = self.split.images[0].nbytes * batch
        return {
            "photos": loader.description,
            "copy_gb_per_s": round(2 * self.scale.copy_bytes * copies / 1e9, 1),
            "bf16_tflop_per_s": round(2 * self.scale.product_side**3 * products / 1e12, 1),
            "batch_out_of_photos_gb_per_s": round(2 * one * batches / 1e9, 1),
            "batch_out_of_photos_per_s": round(batch * batches),
        }

    def _copies(self) -> float:
        source = torch.zeros(self.scale.copy_bytes, dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)
        return self.rate(lambda: target.copy_(source))

    def _products(self) -> float:
        side = self.scale.product_side
        # Of random numbers: of zeros a product draws less power, and is faster.
        a, b = (torch.randn(side, side, device=self.device, dtype=torch.bfloat16) for _ in "ab")
        return self.rate(lambda: a @ b)

    def bare(self, batch: int, compiling: str, *, step: bool, **changes: Any) -> float:
        """Return photos a second of the network alone, on fixed inputs, with or without a step."""
        learner = self.learner(batch, compiling, **changes)
        size = self.scale.size
        inputs = torch.randn(batch, 3, size, size, device=self.device)
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        targets = (torch.arange(batch) % CLASSES).to(self.device)
        learner.model.train()

        def once() -> None:
            learner.optimizer.zero_grad(set_to_none=compiling != "graphs")
            with torch.autocast(
                self.device.type, dtype=torch.bfloat16, enabled=learner.precision == "bf16"
            ):
                logits = learner._network(inputs)
            F.cross_entropy(logits.float(), targets, label_smoothing=0.1).backward()
            if step:
                learner.optimizer.step()

        return batch * self.rate(once)

    def ours(self, batch: int, compiling: str, placement: Any = "auto", **changes: Any) -> float:
        """Return photos a second of the trainer's loop."""
        learner = self.learner(batch, compiling, **changes)
        sampler = Sampler(self.split.targets, batch, seed=0)
        steps = itertools.count()
        batches = self.loader(placement).batches(sampler.rows(step) for step in itertools.count())
        loss_sum = torch.zeros((), device=self.device)
        bad_step = torch.full((), -1, dtype=torch.int64, device=self.device)

        def step() -> None:
            nonlocal loss_sum, bad_step
            number = next(steps)
            images, targets = next(batches)
            parameters = sample_parameters(batch, learner.config.augment, seed=0, step=number)
            data = StepData(images, targets, parameters, size=self.scale.size)
            loss = learner.step(data, lr=0.01)
            learner.update_average(number)
            loss_sum += loss
            bad_step = torch.where((bad_step < 0) & ~torch.isfinite(loss), number, bad_step)

        try:
            return batch * self.rate(step)
        finally:
            batches.close()  # type: ignore[attr-defined]

    def pair(self, batch: int, compiling: str, **changes: Any) -> Found:
        """Measure bare and ours, and set one beside the other."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        bare = self.bare(batch, compiling, step=False, **changes)
        stepped = self.bare(batch, compiling, step=True, **changes)
        ours = self.ours(batch, compiling, **changes)
        return {
            "batch": batch,
            "compile": compiling,
            **changes,
            "bare_photos_per_s": round(bare),
            "bare_with_step_photos_per_s": round(stepped),
            "ours_photos_per_s": round(ours),
            "ours_over_bare": round(ours / bare, 3),
            "s_an_epoch_of_33593": round(33_593 / ours, 2),
            "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 1)
            if self.device.type == "cuda"
            else None,
        }

    def profile(self, compiling: str) -> Found:
        """Name what the device spends a step on, and how long it waits for the host."""
        batch = self.scale.batches[0]
        learner = self.learner(batch, compiling)
        sampler = Sampler(self.split.targets, batch, seed=0)
        batches = self.loader().batches(sampler.rows(step) for step in range(8))

        def steps(count: int) -> Iterator[None]:
            for number, (images, targets) in enumerate(itertools.islice(batches, count)):
                parameters = sample_parameters(batch, learner.config.augment, seed=0, step=number)
                data = StepData(images, targets, parameters, size=self.scale.size)
                learner.step(data, lr=0.01)
                yield

        list(steps(3))
        rig.sync(self.device.type)
        return spent(lambda: list(steps(4)), self.device.type, count=4)

    def story(self) -> Found:
        """Say what the best of it comes to for the 50 epochs of the team's story.

        Only what a run has by itself is judged; steps alone, without validation and checkpoints.
        """
        of_runs = [row for (_, name), row in self.rows.items() if "=" not in name]
        best = max(of_runs, key=lambda row: row["ours_photos_per_s"])
        epoch_s = 33_593 / best["ours_photos_per_s"]
        return {
            "best": best,
            "s_an_epoch": round(epoch_s, 2),
            "min_of_50_epochs_steps_alone": round(50 * epoch_s / 60, 2),
            "aim_0.9_of_bare": best["ours_over_bare"] >= 0.9,
            "aim_3.0_s": epoch_s <= 3.0,
            "stretch_1.9_s": epoch_s <= 1.9,
        }


def main() -> None:
    """Run the stages."""
    chosen = rig.options(__doc__)
    report = rig.Report("gpu-train", chosen)
    bench = Bench(report.device)
    first, *others = bench.scale.batches

    def pair(batch: int, compiling: str, **changes: Any) -> Found | None:
        name = "-".join([compiling, str(batch), *(f"{k}={v}" for k, v in changes.items())])

        def work() -> Found:
            row = bench.pair(batch, compiling, **changes)
            bench.rows[batch, name] = row
            return row

        return report.stage(name, work, needs_s=15, most_s=150)

    report.stage("ceilings", bench.ceilings, most_s=90)
    pair(first, "on")
    report.stage("profile", lambda: bench.profile("on"), needs_s=15, most_s=60)
    pair(first, "off")
    # What exactness costs.
    pair(first, "on", deterministic=False)
    for batch in others:
        pair(batch, "on")
    pair(first, "graphs")
    for batch in others:
        pair(batch, "off")
    placement = "pinned" if report.device == "cuda" else "memory-mapped"
    report.stage(
        placement,
        lambda: {"photos_per_s": round(bench.ours(first, "off", placement))},
        most_s=60,
    )
    pair(first, "off", precision="fp32")
    if bench.rows:
        report.stage("story", bench.story, needs_s=float("-inf"))
    report.end()


if __name__ == "__main__":
    main()
