"""Training speed on CUDA beside bare forward and backward: steps of benchmarks/gpu.py.

bare      forward and backward on tensors that lie on the device ready; and with the step
ours      the trainer's steps: batches by index out of 33,593 resident photos, augmentation, step

ResNet18, bf16, channels innermost, photos of noise; without validation and checkpoints.
"""

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.gpu_stages.steps import Found, Step, limit, rate, rows, spent, sync
from service.pixels.preprocessing import resize_size
from training.config import TrainConfig
from training.data.augment_parameters import sample_parameters
from training.data.cache import Split
from training.data.loader import Loader, Placement, loader_for
from training.data.sampler import Sampler
from training.loop.learner import Learner, StepData
from training.model.device import autocast

COMPILE_S = 40.0
"""What compiling a step may take; the measurements after it have time of their own."""
MEASURE_S = 20.0


@dataclasses.dataclass(frozen=True)
class Scale:
    """How large the measurements are."""

    size: int
    photos: int
    batch_divisor: int
    seconds: float


SCALES = {"cuda": Scale(224, 33_593, 1, 2.0), "cpu": Scale(32, 300, 64, 0.1)}
CLASSES = 42


def steps(device: str, work: Path) -> dict[str, Step]:
    """Return the steps by name."""
    bench = Bench(device)
    known: dict[str, Step] = {
        "fast-1024": lambda: bench.pair(1024, "on", deterministic=False),
        "fp32-512": lambda: bench.pair(512, "off", precision="fp32"),
        "pinned": bench.pinned,
        "profile-training": lambda: bench.profile(512, "on"),
    }
    for name, compiling in (("eager", "off"), ("compiled", "on"), ("graphs", "graphs")):
        for batch in (256, 512, 1024, 2048):
            known[f"{name}-{batch}"] = partial(bench.pair, batch, compiling)
    return known


class Bench:
    """The measurements; photos and learners are made once."""

    def __init__(self, device: str) -> None:
        """Make the photos in host memory."""
        self.device = torch.device(device, 0) if device == "cuda" else torch.device(device)
        self.scale = SCALES[device]
        side = resize_size(self.scale.size)
        some = np.random.default_rng(0).integers(0, 256, (256, side, side, 3), dtype=np.uint8)
        images = np.empty((self.scale.photos, side, side, 3), np.uint8)
        for start in range(0, len(images), 256):
            images[start : start + 256] = some[: len(images) - start]
        targets = np.arange(self.scale.photos) % CLASSES
        self.split = Split(images, targets, ("",) * self.scale.photos)
        self._loaders: dict[Placement, Loader] = {}

    def loader(self, placement: Placement) -> Loader:
        """Return the photos in their place."""
        if placement not in self._loaders:
            self._loaders[placement] = loader_for(self.split, self.device, placement)
        return self._loaders[placement]

    def learner(self, batch: int, compiling: str, **changes: Any) -> Learner:
        """Return a learner as a run has it."""
        config = TrainConfig(
            image_size=self.scale.size, batch_size=batch, compile=compiling, precision="bf16"
        ).with_overrides(changes)
        return Learner(config, CLASSES, self.device)

    def rate(self, step: Callable[[], object]) -> float:
        """Return steps a second."""
        return rate(step, self.device.type, seconds=self.scale.seconds)

    @contextlib.contextmanager
    def loop(self, learner: Learner, placement: Placement = "auto") -> Iterator[Callable[[], None]]:
        """Yield what takes one of the trainer's steps."""
        batch = learner.config.batch_size
        sampler = Sampler(self.split.targets, batch, seed=0)
        numbers = itertools.count()
        batches = self.loader(placement).batches(sampler.rows(step) for step in itertools.count())
        loss_sum = torch.zeros((), device=self.device)
        bad_step = torch.full((), -1, dtype=torch.int64, device=self.device)

        def step() -> None:
            nonlocal loss_sum, bad_step
            number = next(numbers)
            images, targets = next(batches)
            parameters = sample_parameters(batch, learner.config.augment, seed=0, step=number)
            data = StepData(images, targets, parameters, size=self.scale.size)
            loss = learner.step(data, lr=0.01)
            learner.update_average(number)
            loss_sum += loss
            bad_step = torch.where((bad_step < 0) & ~torch.isfinite(loss), number, bad_step)

        try:
            yield step
        finally:
            batches.close()  # type: ignore[attr-defined]

    def bare(self, learner: Learner, *, step: bool) -> Callable[[], None]:
        """Return what runs the network alone on fixed inputs, with or without a step."""
        batch, size = learner.config.batch_size, self.scale.size
        inputs = torch.randn(batch, 3, size, size, device=self.device)
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        targets = (torch.arange(batch) % CLASSES).to(self.device)
        learner.model.train()

        def once() -> None:
            learner.optimizer.zero_grad(set_to_none=learner.config.compile != "graphs")
            with autocast(self.device, learner.precision):
                logits = learner._network(inputs)
            F.cross_entropy(logits.float(), targets, label_smoothing=0.1).backward()
            if step:
                learner.optimizer.step()

        return once

    def pair(self, nominal: int, compiling: str, **changes: Any) -> Found:
        """Measure bare and ours, and set one beside the other; compiling is timed apart."""
        on_cuda, batch = self.device.type == "cuda", nominal // self.scale.batch_divisor
        if on_cuda:
            torch.cuda.reset_peak_memory_stats()
        table = rows()
        self.loader("auto")
        learner = self.learner(batch, compiling, **changes)
        limit(COMPILE_S if compiling != "off" else MEASURE_S)
        started_s = time.perf_counter()
        with self.loop(learner) as step:
            step()
            sync(self.device.type)
            first_s = time.perf_counter() - started_s
            limit(MEASURE_S)
            ours = batch * self.rate(step)
        bare, stepped = (batch * self.rate(self.bare(learner, step=step)) for step in (False, True))
        table.append(
            {
                "batch": batch,
                "compile": compiling,
                **changes,
                "first_step_s": round(first_s, 1),
                "bare_photos_per_s": round(bare),
                "bare_with_step_photos_per_s": round(stepped),
                "ours_photos_per_s": round(ours),
                "ours_over_bare": round(ours / bare, 3),
                "s_an_epoch_of_33593": round(33_593 / ours, 2),
                "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 1)
                if on_cuda
                else None,
            }
        )
        return {"photos": self.loader("auto").description, "rows": table}

    def pinned(self) -> Found:
        """Measure steps on photos that do not lie on the device."""
        self._loaders.clear()
        placement: Placement = "pinned" if self.device.type == "cuda" else "memory-mapped"
        learner = self.learner(512 // self.scale.batch_divisor, "off")
        with self.loop(learner, placement) as step:
            photos_per_s = learner.config.batch_size * self.rate(step)
        return {"photos": self.loader(placement).description, "photos_per_s": round(photos_per_s)}

    def profile(self, nominal: int, compiling: str) -> Found:
        """Name what the device spends a step on, and how long it waits for the host."""
        learner = self.learner(nominal // self.scale.batch_divisor, compiling)
        limit(COMPILE_S)
        with self.loop(learner) as step:
            for _ in range(3):
                step()
            sync(self.device.type)
            return spent(lambda: [step() for _ in range(4)], self.device.type, count=4)
