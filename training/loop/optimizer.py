"""The optimizer of a run: which parameters decay, and which parts of the network learn how fast."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from training.config import TrainConfig, TransferConfig
from training.model.stages import HEAD, part_of


def optimizer_of(
    config: TrainConfig, model: nn.Module, device: torch.device
) -> torch.optim.Optimizer:
    """Return the optimizer that a config names, fused; on CUDA its rate is a tensor."""
    settings = config.optimizer
    # Decay on norms and biases only costs accuracy (He et al. 2019, bag of tricks).
    groups = [
        {
            "params": [p for p in parameters if (p.ndim > 1) == decays],
            "weight_decay": settings.weight_decay if decays else 0.0,
            "scale": scale,
        }
        for scale, parameters in _by_part(model, config.transfer)
        for decays in (True, False)
    ]
    optimizer: torch.optim.Optimizer
    if settings.name == "adamw":
        betas = (settings.momentum, 0.999)
        optimizer = torch.optim.AdamW(groups, lr=settings.lr, betas=betas, fused=True)
    else:
        optimizer = torch.optim.SGD(
            groups, lr=settings.lr, momentum=settings.momentum, nesterov=settings.momentum > 0,
            fused=True,
        )  # fmt: skip
    if device.type == "cuda":
        # A number would be compiled into a graph anew each time that it changes. Each group has a
        # tensor of its own: the groups share what is given to the optimizer.
        for group in optimizer.param_groups:
            group["lr"] = torch.tensor(settings.lr, device=device)
    return optimizer


@contextmanager
def as_they_lie(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Let an optimizer see weights with the channels innermost in the order of memory, for a step.

    On a CPU the fused optimizers copy what lies otherwise, which takes as long as the step itself.
    """
    weights = [
        weight
        for group in optimizer.param_groups
        for weight in group["params"]
        if weight.ndim == 4 and weight.grad is not None and not weight.is_contiguous()
    ]

    def all_of(weight: Tensor) -> Iterator[Tensor]:
        """Yield what belongs to a weight and lies as it does; the first step makes some of it."""
        yield weight
        yield weight.grad  # type: ignore[misc]
        yield from (value for value in optimizer.state[weight].values() if value.ndim == 4)

    for weight in weights:
        for tensor in all_of(weight):
            tensor.data = tensor.data.permute(0, 2, 3, 1)
    try:
        yield
    finally:
        for weight in weights:
            for tensor in all_of(weight):
                tensor.data = tensor.data.permute(0, 3, 1, 2)


def _by_part(model: nn.Module, transfer: TransferConfig) -> list[tuple[float, list[nn.Parameter]]]:
    """Return (share of the learning rate, parameters): a part of the model each, or all at once.

    Parts that begin to learn later need groups of their own, decay or not: fused SGD cannot step
    parameters with and without momentum in one group.
    """
    if transfer.strategy == "scratch" and transfer.layer_decay == 1:
        return [(1.0, list(model.parameters()))]
    named = list(model.named_parameters())
    return [
        (transfer.layer_decay ** (HEAD - part), [p for name, p in named if part_of(name) == part])
        for part in range(HEAD + 1)
    ]
