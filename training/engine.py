"""One step and one evaluation, on whatever device there is.

Shapes: B batch, C side of the cached square, S side of the model's square, K classes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from service.preprocessing import centre_crop
from training.augment import augment
from training.cache import Split
from training.config import TrainConfig
from training.errors import ConfigError
from training.resnet import build, normalise

_EVALUATION_BATCH = 256


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How a model does on a split."""

    loss: float
    """Mean cross entropy, without label smoothing."""
    predictions: NDArray[np.int64]
    """[N], the likeliest class of each photo."""
    num_correct: int

    @property
    def top1(self) -> float:
        """Return the accuracy, as a fraction."""
        return self.num_correct / len(self.predictions)


class Engine:
    """The model, its optimizer, and the two things done with them."""

    def __init__(self, config: TrainConfig, num_classes: int, device: torch.device) -> None:
        self.config = config
        self.device = device
        model = build(num_classes, seed=config.seed).to(device)
        # Convolutions are faster with the channels innermost, on CUDA and on a CPU.
        self.model: nn.Module = model.to(memory_format=torch.channels_last)
        self.optimizer = _optimizer(config, self.model)
        bf16 = config.precision == "bf16" or (
            config.precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported()
        )
        self.precision = "bf16" if bf16 else "fp32"

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16"
        )

    def step(
        self, images: NDArray[np.uint8], targets: NDArray[np.int64], *, step: int, lr: float
    ) -> Tensor:
        """Learn from one batch, uint8 (B, C, C, 3); return its loss, still on the device."""
        config = self.config
        self.model.train()
        batch = self._to_device(images)
        goal = torch.from_numpy(targets).to(self.device, non_blocking=True)
        pixels = augment(batch, config.image_size, config.augment, seed=config.seed, step=step)
        inputs = normalise(pixels).contiguous(memory_format=torch.channels_last)
        with self._autocast():
            logits = self.model(inputs)
        loss = F.cross_entropy(logits.float(), goal, label_smoothing=config.label_smoothing)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.detach()

    @torch.no_grad()
    @torch.backends.cudnn.flags(allow_tf32=False)
    def evaluate(self, split: Split, after_batch: Callable[[], None] = lambda: None) -> Evaluation:
        """Evaluate on the pixels that a server would make: the centre of each cached square.

        In fp32 whatever the training step computes in: the exported file does, and its top-1 must
        be the one that the run reports.
        """
        self.model.eval()
        loss = torch.zeros((), device=self.device)
        predictions = []
        for start in range(0, len(split.targets), _EVALUATION_BATCH):
            rows = slice(start, start + _EVALUATION_BATCH)
            batch = self._to_device(centre_crop(split.images[rows], self.config.image_size))
            inputs = normalise(batch.permute(0, 3, 1, 2).float())
            logits = self.model(inputs.contiguous(memory_format=torch.channels_last))
            goal = torch.from_numpy(split.targets[rows]).to(self.device)
            loss += F.cross_entropy(logits, goal, reduction="sum")
            predictions.append(logits.argmax(1))
            after_batch()
        predicted: NDArray[np.int64] = torch.cat(predictions).cpu().numpy()
        return Evaluation(
            loss=loss.item() / len(split.targets),
            predictions=predicted,
            num_correct=int((predicted == split.targets).sum()),
        )

    def _to_device(self, images: NDArray[np.uint8]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(images)).to(self.device, non_blocking=True)


def _optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    # Decay on norms and biases only costs accuracy (He et al. 2019, bag of tricks).
    groups = [
        {
            "params": [p for p in model.parameters() if p.ndim > 1],
            "weight_decay": config.optimizer.weight_decay,
        },
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    settings = config.optimizer
    if settings.name == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr, betas=(settings.momentum, 0.999))
    nesterov = settings.momentum > 0
    return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, nesterov=nesterov)


def device_of(name: str) -> torch.device:
    """Return the device for `auto` (CUDA if it can be had), `cuda` or `cpu`.

    Raises:
        ConfigError: CUDA was asked for and cannot be had, or the name is unknown.
    """
    if name not in ("auto", "cuda", "cpu"):
        raise ConfigError(f"device must be auto, cuda or cpu, not {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device cuda: torch sees no CUDA device; use --device cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
