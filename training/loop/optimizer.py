"""The optimizer of a run: which parameters decay, and how fast each part of the network learns."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from training.config import TrainConfig, TransferConfig
from training.model.stages import HEAD, part_of


def optimizer_for(
    config: TrainConfig, model: nn.Module, device: torch.device
) -> torch.optim.Optimizer:
    """Return the optimizer that a config names, fused.

    Each parameter group has `scale`, its share of the learning rate. On CUDA the rate of a group is
    a tensor: set it in place.
    """
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
    # With fp16, a step that is left out is left out by the scaler. In fused SGD, the momentum would
    # have been created, and never written: the next step would take what lies there.
    optimizer._step_supports_amp_scaling = False
    if device.type == "cuda":
        # A plain number would be compiled into a graph, again for each value. A tensor that is
        # given to the optimizer would be shared by all groups, so each group gets its own here.
        for group in optimizer.param_groups:
            group["lr"] = torch.tensor(settings.lr, device=device)
    return optimizer


@contextmanager
def channels_last_as_contiguous(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Let an optimizer see channels-last weights as contiguous tensors, for one step on a CPU.

    The fused CPU optimizers copy tensors that are not contiguous, which takes as long as the step
    itself. The weights are permuted to the order of their memory, and back afterwards.
    """
    weights = [
        weight
        for group in optimizer.param_groups
        for weight in group["params"]
        if weight.ndim == 4 and weight.grad is not None and not weight.is_contiguous()
    ]

    def tensors_of(weight: Tensor) -> Iterator[Tensor]:
        """Yield the weight, its gradient and its optimizer state, which the first step creates."""
        yield weight
        yield weight.grad  # type: ignore[misc]
        yield from (value for value in optimizer.state[weight].values() if value.ndim == 4)

    for weight in weights:
        for tensor in tensors_of(weight):
            tensor.data = tensor.data.permute(0, 2, 3, 1)
    try:
        yield
    finally:
        for weight in weights:
            for tensor in tensors_of(weight):
                tensor.data = tensor.data.permute(0, 3, 1, 2)


def _by_part(model: nn.Module, transfer: TransferConfig) -> list[tuple[float, list[nn.Parameter]]]:
    """Return (share of the learning rate, parameters) of each part of the model.

    From scratch, all parameters are one group. Otherwise each part has its own, since fused SGD
    cannot step parameters with momentum and parameters that only begin to learn in one group.
    """
    if transfer.strategy == "scratch" and transfer.layer_decay == 1:
        return [(1.0, list(model.parameters()))]
    named = list(model.named_parameters())
    return [
        (transfer.layer_decay ** (HEAD - part), [p for name, p in named if part_of(name) == part])
        for part in range(HEAD + 1)
    ]
