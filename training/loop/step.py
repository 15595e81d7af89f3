"""One step and one evaluation, on whatever device there is.

Shapes: B batch, C side of the cached square, S side of the model's square, K classes.
"""

import contextlib
import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from service.pixels.preprocessing import centre_crop
from training.config import TrainConfig
from training.data.augmentation import Draws, augment, partners
from training.data.loader import Feed
from training.distributed.world import ALONE, World
from training.errors import ConfigError
from training.evaluation.evaluation import Evaluation
from training.loop.optimizer import as_they_lie, optimizer_of
from training.model.cpu_convolution import use_products
from training.model.device import be_deterministic, has_bf16, keep_memory
from training.model.resnet import Normalise, build, flip_averaged
from training.model.stages import Phase, freeze, part_of, set_modes, split

EVALUATION_BATCH = 256
"""Photos validated at a time; on a CPU fewer large ones, since between two batches a run hears that
it is to stop, and slow CPUs manage no more than 15 photos of 224 px in a second."""


class Engine:
    """The model, its average, its optimizer, and the two things done with them."""

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
        self.config = config
        self.device = device
        self.world = world
        self.num_classes = num_classes
        be_deterministic(config.deterministic)
        model = build(num_classes, seed=config.seed).to(device)
        if start is not None:
            # All but the head, which is new.
            model.load_state_dict({**model.state_dict(), **start})
        # Convolutions are faster with the channels innermost, on CUDA and on a CPU.
        self.model: nn.Module = model.to(memory_format=torch.channels_last)
        self.normalise = Normalise().to(device)
        self.average = copy.deepcopy(self.model) if config.optimizer.ema else None
        self.optimizer = optimizer_of(config, self.model, device)
        self.class_weights = (
            None if class_weights is None else torch.from_numpy(class_weights).to(device)
        )
        self.augmented: Tensor | None = None
        if config.augment.classes:
            if max(config.augment.classes) >= num_classes:
                raise ConfigError(
                    f"augment.classes names class {max(config.augment.classes)}, but there are"
                    f" {num_classes}, counted from 0"
                )
            self.augmented = torch.zeros(num_classes, dtype=torch.bool, device=device)
            self.augmented[list(config.augment.classes)] = True
        cuda = device.type == "cuda"
        self.precision: str = config.precision
        if config.precision == "auto":
            self.precision = "bf16" if has_bf16(device) else "fp32"
        self.compiled = config.compile in ("on", "graphs") or (config.compile == "auto" and cuda)
        if device.type == "cpu":
            keep_memory()
            if not self.compiled:
                use_products(self.model)
        self._graphs = config.compile == "graphs" and cuda
        self.enter(Phase(0))

    def enter(self, phase: Phase, *, cached: bool = False) -> None:
        """Let the parts of a phase learn; `cached`: steps get the output of the frozen parts."""
        self.phase = phase
        self.cached = cached
        # A mixture of two photos has no features of its own.
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
            import torch._dynamo.config
            import torch._inductor.config

            # Each side of progressive resizing is a graph; beyond 8 it would stop to compile.
            torch._dynamo.config.recompile_limit = 64
            if hasattr(torch._inductor.config, "deterministic"):
                # Or a resumed run could choose another kernel by timing it.
                torch._inductor.config.deterministic = self.config.deterministic
            if "_prepared" not in vars(self):
                # Once: each phase comes by here.
                self._prepared = torch.compile(self._prepared, dynamic=False)  # type: ignore
            mode = "reduce-overhead" if self.config.compile == "graphs" else "default"
            network = torch.compile(network, mode=mode, dynamic=False)
        if self._graphs and self.world.size == 1:
            # A graph writes gradients to the same place each time: they must be added to tensors
            # of ours, or those of one micro-batch would be lost in the next.
            for parameter in self.model.parameters():
                # Frozen ones have none, or decay and momentum would move them.
                parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
        self._no_sync = getattr(network, "no_sync", contextlib.nullcontext)
        call: Callable[[Tensor], Tensor] = network
        return call

    def _prepared(self, pixels: Tensor) -> Tensor:
        return self.normalise(pixels).contiguous(memory_format=torch.channels_last)  # type: ignore

    @property
    def best_guess(self) -> nn.Module:
        """Return what is validated and released: the average of the weights, if there is one."""
        return self.model if self.average is None else self.average

    def step(
        self, images: Tensor, targets: Tensor, draws: Draws, *, size: int, lr: float,
        late: bool = False,
    ) -> Tensor:  # fmt: skip
        """Learn from this process's part of a batch, uint8 (B, C, C, 3), or features of it.

        Returns the mean loss of the part, still on the device.
        """
        set_modes(self.model, self.phase.learning)
        self.optimizer.zero_grad(set_to_none=not self._graphs)
        each = self.config.micro_batch_size // self.world.size or len(targets)
        total = torch.zeros((), device=self.device)
        for start in range(0, len(targets), each):
            rows = slice(start, start + each)
            last = start + each >= len(targets)
            # Gradients cross the network once a step, not once a micro-batch.
            with contextlib.nullcontext() if last else self._no_sync():
                loss = self._loss(images[rows], targets[rows], draws[rows], size, late)
                loss = loss / len(targets)
                loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        settings = self.config.optimizer
        if settings.clip_norm:
            nn.utils.clip_grad_norm_(self.model.parameters(), settings.clip_norm)
        for group in self.optimizer.param_groups:
            rate = lr * group.get("scale", 1.0)
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        with as_they_lie(self.optimizer) if self.device.type == "cpu" else contextlib.nullcontext():
            self.optimizer.step()
        return total

    def _loss(self, images: Tensor, targets: Tensor, draws: Draws, size: int, late: bool) -> Tensor:
        """Return the summed loss of a micro-batch."""
        config = self.config
        inputs, share = images, draws.share
        if not self.cached:
            chosen = None if self.augmented is None else self.augmented[targets]
            pixels, share = augment(
                images, size, config.image_size, self.augment, draws, late=late, chosen=chosen,
                compiled=self.compiled,
            )  # fmt: skip
            inputs = self._prepared(pixels)
        if self._graphs:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        with torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16"
        ):
            logits = self._network(inputs)

        def against(goal: Tensor) -> Tensor:
            return F.cross_entropy(
                logits.float(), goal, weight=self.class_weights, reduction="none",
                label_smoothing=config.label_smoothing,
            )  # fmt: skip

        if not (self.augment.mixup or self.augment.cutmix) or late:
            return against(targets).sum()
        return torch.lerp(against(partners(targets)), against(targets), share).sum()

    def follow(self, step: int, pace: float = 1.0) -> None:
        """Move the average towards the weights after a step (from 0), as far as `pace` steps do."""
        if self.average is None:
            return
        # A low decay at first: the random weights must not linger (as in Tensorflow's averages).
        decay = min(self.config.optimizer.ema, (1 + step) / (10 + step)) ** pace
        mine, theirs = self.average.state_dict(), self.model.state_dict()
        floats = [
            name
            for name, value in mine.items()
            if value.is_floating_point() and part_of(name) in self.phase.learning
        ]
        torch._foreach_lerp_(
            [mine[name] for name in floats], [theirs[name] for name in floats], 1 - decay
        )

    @torch.no_grad()
    @torch.backends.cudnn.flags(enabled=True, allow_tf32=False, deterministic=True, benchmark=False)
    def evaluate(self, feed: Feed, after_batch: Callable[[], None] = lambda: None) -> Evaluation:
        """Evaluate on the pixels that a server would make: the centre of each cached square.

        Or on what the frozen parts make of them, if that is what the feed gives. `after_batch` is
        called as often in each process: they may agree on something there.

        In fp32 whatever the training step computes in: the exported file does, and its top-1 must
        be the one that the run reports.
        """
        model = self.best_guess
        model.eval()
        # Each process has its own BatchNorm statistics; those of rank 0 are saved, so they count.
        self.world.align(model.buffers())
        network = flip_averaged(model) if self.config.flip_average else model
        rest = split(model, self.phase.frozen)[1]
        first, last = (
            feed.num_photos * rank // self.world.size
            for rank in (self.world.rank, self.world.rank + 1)
        )
        # A photo and its mirror image are two.
        each = EVALUATION_BATCH // (2 if self.config.flip_average else 1)
        if self.device.type == "cpu":
            each = max(min(each, each * 112**2 // self.config.image_size**2), 1)
        rows = [np.arange(at, min(at + each, last)) for at in range(first, last, each)]
        logits = [torch.zeros(0, self.num_classes, device=self.device)]
        targets = [torch.zeros(0, dtype=torch.int64, device=self.device)]
        for images, goal in feed.batches(rows):
            if images.is_floating_point():
                logits.append(rest(images))
            else:
                pixels = centre_crop(images, self.config.image_size).permute(0, 3, 1, 2).float()  # type: ignore
                inputs = self.normalise(pixels).contiguous(memory_format=torch.channels_last)
                logits.append(network(inputs))
            targets.append(goal)
            after_batch()
        most = -(-feed.num_photos // self.world.size)
        for _ in range(len(rows), -(-most // each)):
            after_batch()
        all_logits = self.world.gather(torch.cat(logits))
        all_targets = self.world.gather(torch.cat(targets))
        return Evaluation(
            logits=all_logits.cpu().numpy(),
            targets=all_targets.cpu().numpy(),
            loss=F.cross_entropy(all_logits, all_targets).item(),
        )
