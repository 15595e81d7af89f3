"""The model with all that it learns by: one training step, and one evaluation.

Shapes: B batch, C side of the cached square, S side of the model's square, K classes.
"""

import contextlib
import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from service.pixels.preprocessing import centre_crop
from training.config import TrainConfig
from training.data.augment_parameters import AugmentParameters
from training.data.augmentation import augment, partners
from training.data.loader import Loader
from training.data.sampler import micro_batches
from training.distributed.batchnorm import synchronised
from training.distributed.world import ALONE, World
from training.errors import ConfigError
from training.evaluation.evaluation import Evaluation
from training.loop.optimizer import channels_last_as_contiguous, optimizer_for
from training.model.compiling import compiled, uncompiled
from training.model.cpu_convolution import use_matmul_convolutions
from training.model.device import (
    autocast,
    evaluation_batch,
    keep_freed_memory,
    precision_of,
    set_determinism,
)
from training.model.resnet import Normalise, build, flip_averaged
from training.model.stages import Phase, freeze, part_of, set_modes, split

EVALUATION_BATCH = 256
"""Photos that are validated at a time. On a CPU, large photos are fewer: a run can only be stopped
between two batches, and a slow CPU validates 15 photos of 224 px in a second."""


@dataclass(frozen=True, slots=True)
class StepData:
    """What one step learns from: this process's part of a batch."""

    images: Tensor
    """uint8 (B, C, C, 3), or cached features of the frozen parts, float32."""
    targets: Tensor
    """int64 (B,), positions in the labels."""
    parameters: AugmentParameters
    """Of the augmentation of each photo; of cached features only the mixing is left to do."""
    size: int
    """S, the side in pixels that the model is trained at."""
    late: bool = False
    """Without heavy augmentation, as in the last epochs."""


class Learner:
    """The model, the average of its weights, and its optimizer, on one device."""

    def __init__(
        self,
        config: TrainConfig,
        num_classes: int,
        device: torch.device,
        *,
        world: World = ALONE,
        class_weights: NDArray[np.float32] | None = None,
        start: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Build a model with random weights by the seed; `start` replaces all but the head's.

        With `compile=auto` nothing is compiled: `training/model/compiling.py` decides before.

        Raises:
            ConfigError: `augment.classes` names a class that there is not.
        """
        self.config = config
        self.device = device
        self.world = world
        self.num_classes = num_classes
        set_determinism(config.deterministic)
        model = build(num_classes, seed=config.seed).to(device)
        if start is not None:
            model.load_state_dict({**model.state_dict(), **start})
        if config.sync_batchnorm and world.size > 1:
            model = synchronised(model, device)
        # Convolutions are faster with the channels innermost, on CUDA and on a CPU.
        self.model: nn.Module = model.to(memory_format=torch.channels_last)
        self.normalise = Normalise().to(device)
        self.average = copy.deepcopy(self.model) if config.optimizer.ema else None
        self.optimizer = optimizer_for(config, self.model, device)
        self.class_weights = (
            None if class_weights is None else torch.from_numpy(class_weights).to(device)
        )
        self.augmented_classes = self._augmented_classes()
        self.precision = precision_of(config, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "fp16")
        self.compiled = config.compile in ("on", "graphs")
        if device.type == "cpu":
            keep_freed_memory()
            if not self.compiled:
                use_matmul_convolutions(self.model)
        self._cuda_graphs = config.compile == "graphs" and device.type == "cuda"
        self.enter(Phase(0))

    def _augmented_classes(self) -> Tensor | None:
        """Return whether the photos of each class are augmented, (K,); None if all are."""
        classes = self.config.augment.classes
        if not classes:
            return None
        if max(classes) >= self.num_classes:
            raise ConfigError(
                f"augment.classes names class {max(classes)}, but there are"
                f" {self.num_classes}, counted from 0"
            )
        augmented = torch.zeros(self.num_classes, dtype=torch.bool, device=self.device)
        augmented[list(classes)] = True
        return augmented

    def enter(self, phase: Phase, *, cached: bool = False) -> None:
        """Let the parts of a phase learn; `cached`: steps get the output of the frozen parts."""
        self.phase = phase
        self.cached = cached
        # The features of fixed views are cached; mixing photos would make other features.
        self.augment = (
            replace(self.config.augment, mixup=0.0, cutmix=0.0)
            if phase.views
            else self.config.augment
        )
        freeze(self.model, phase.learning)
        self._network = self._wrap(split(self.model, phase.frozen)[1] if cached else self.model)

    def _wrap(self, model: nn.Module) -> Callable[[Tensor], Tensor]:
        """Return the model as steps call it: shared between processes, compiled."""
        network: Any = model
        if self.world.size > 1:
            ids = [self.device.index] if self.device.type == "cuda" else None
            network = nn.parallel.DistributedDataParallel(
                network, device_ids=ids, gradient_as_bucket_view=True
            )
        if self.compiled:
            if "_prepared" not in vars(self):
                # Once: every phase calls this method.
                self._prepared = compiled(self._prepared, self.config, "on")  # type: ignore
            network = compiled(network, self.config, self.config.compile)
        if self._cuda_graphs and self.world.size == 1:
            # A graph writes gradients to the same memory each time. Without tensors of our own to
            # add them to, the gradients of one micro-batch would be lost in the next.
            for parameter in self.model.parameters():
                # Frozen ones get none, or weight decay and momentum would move them.
                parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
        self._no_sync = getattr(network, "no_sync", contextlib.nullcontext)
        call: Callable[[Tensor], Tensor] = network
        return call

    def _prepared(self, pixels: Tensor) -> Tensor:
        return self.normalise(pixels).contiguous(memory_format=torch.channels_last)  # type: ignore

    @property
    def released_model(self) -> nn.Module:
        """The model that is validated and released: the average of the weights, if there is one."""
        return self.model if self.average is None else self.average

    def step(self, data: StepData, *, lr: float) -> Tensor:
        """Learn from a batch at learning rate `lr`.

        Returns the mean loss of this process's part, still on the device.
        """
        set_modes(self.model, self.phase.learning)
        self.optimizer.zero_grad(set_to_none=not self._cuda_graphs)
        num_photos = len(data.targets)
        total = torch.zeros((), device=self.device)
        early = self.compiled and data.size != self.config.size_at(self.config.epochs)
        for rows in micro_batches(num_photos, self.config.micro_batch_size // self.world.size):
            # Processes exchange gradients once a step, not once a micro-batch.
            whole = contextlib.nullcontext() if rows.stop == num_photos else self._no_sync()
            with whole, uncompiled(early):
                loss = self._loss(data, rows) / num_photos
                self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        settings = self.config.optimizer
        self.scaler.unscale_(self.optimizer)
        if settings.clip_norm:
            nn.utils.clip_grad_norm_(self.model.parameters(), settings.clip_norm)
        for group in self.optimizer.param_groups:
            rate = lr * group.get("scale", 1.0)
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        on_cpu = self.device.type == "cpu"
        with channels_last_as_contiguous(self.optimizer) if on_cpu else contextlib.nullcontext():
            self.scaler.step(self.optimizer)
        self.scaler.update()
        return total

    def _loss(self, data: StepData, rows: slice) -> Tensor:
        """Return the summed loss of a micro-batch."""
        config = self.config
        inputs, targets, parameters = data.images[rows], data.targets[rows], data.parameters[rows]
        share = parameters.share
        if not self.cached:
            classes = self.augmented_classes
            pixels, share = augment(
                inputs, data.size, config.image_size, self.augment, parameters, late=data.late,
                chosen=None if classes is None else classes[targets], compiled=self.compiled,
            )  # fmt: skip
            inputs = self._prepared(pixels)
        if self._cuda_graphs:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        with autocast(self.device, self.precision):
            logits = self._network(inputs)

        def against(goal: Tensor) -> Tensor:
            return F.cross_entropy(
                logits.float(), goal, weight=self.class_weights, reduction="none",
                label_smoothing=config.label_smoothing,
            )  # fmt: skip

        if not self.augment.mixes or data.late:
            return against(targets).sum()
        return torch.lerp(against(partners(targets)), against(targets), share).sum()

    def update_average(self, step: int, num_steps: float = 1.0) -> None:
        """Move the average of the weights towards the weights, after a step (from 0).

        `num_steps` moves it as far as so many steps would.
        """
        if self.average is None:
            return
        # A low decay at first, or the random weights would linger (as TensorFlow's averages do it).
        decay = min(self.config.optimizer.ema, (1 + step) / (10 + step)) ** num_steps
        average, weights = self.average.state_dict(), self.model.state_dict()
        names = [
            name
            for name, value in average.items()
            if value.is_floating_point() and part_of(name) in self.phase.learning
        ]
        torch._foreach_lerp_(
            [average[name] for name in names], [weights[name] for name in names], 1 - decay
        )

    @torch.no_grad()
    @torch.backends.cudnn.flags(enabled=True, allow_tf32=False, deterministic=True, benchmark=False)
    def evaluate(
        self, loader: Loader, after_batch: Callable[[], None] = lambda: None
    ) -> Evaluation:
        """Evaluate on the pixels that the server makes: the centre of each cached square.

        A loader of cached features is evaluated from these on. Processes share the photos, and
        call `after_batch` equally often, so they may communicate there.

        Always in fp32: so is the exported file, whose top-1 must be the one that the run reports.
        """
        model = self.released_model
        model.eval()
        # BatchNorm statistics may differ between processes; those of rank 0 are the saved ones.
        self.world.align(model.buffers())
        network = flip_averaged(model) if self.config.flip_average else model
        rest = split(model, self.phase.frozen)[1]
        first, last = (
            loader.num_photos * rank // self.world.size
            for rank in (self.world.rank, self.world.rank + 1)
        )
        batch = evaluation_batch(self.config, self.device, self.world.size, EVALUATION_BATCH)
        rows = [np.arange(at, min(at + batch, last)) for at in range(first, last, batch)]
        logits = [torch.zeros(0, self.num_classes, device=self.device)]
        targets = [torch.zeros(0, dtype=torch.int64, device=self.device)]
        for images, goal in loader.batches(rows):
            if images.is_floating_point():
                logits.append(rest(images))
            else:
                pixels = centre_crop(images, self.config.image_size).permute(0, 3, 1, 2).float()  # type: ignore
                inputs = self.normalise(pixels).contiguous(memory_format=torch.channels_last)
                logits.append(network(inputs))
            targets.append(goal)
            after_batch()
        # As often as the process with the most photos.
        most = -(-loader.num_photos // self.world.size)
        for _ in range(len(rows), -(-most // batch)):
            after_batch()
        all_logits = self.world.gather(torch.cat(logits))
        all_targets = self.world.gather(torch.cat(targets))
        return Evaluation(
            logits=all_logits.cpu().numpy(),
            targets=all_targets.cpu().numpy(),
            loss=F.cross_entropy(all_logits, all_targets).item(),
        )
