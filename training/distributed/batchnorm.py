"""BatchNorm over the photos of all processes (`sync_batchnorm`), as one process has it.

On CUDA it is torch's own, which refuses tensors of a CPU; there it is `SyncBatchNorm` below, which
computes the same and lets gloo exchange it. Parameters, buffers and their names stay those of
`BatchNorm2d`, so checkpoints and the exported file are the same with it and without.

Shapes: N photos of this process, C channels, P processes.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def synchronised(model: nn.Module, device: torch.device) -> nn.Module:
    """Return a model whose every BatchNorm takes statistics from all processes in training.

    Its parameters and buffers are those of `model`. Each process must give as many photos.
    """
    if device.type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore
        return converted
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm2d:
                setattr(parent, name, SyncBatchNorm.like(child))
    return model


class SyncBatchNorm(nn.BatchNorm2d):
    """BatchNorm of processes on CPUs that train together, with equally many photos each."""

    @classmethod
    def like(cls, norm: nn.BatchNorm2d) -> "SyncBatchNorm":
        """Return one in the place of a BatchNorm, with the very same parameters and buffers."""
        made = cls(norm.num_features, norm.eps, norm.momentum, device="meta")
        made.weight, made.bias = norm.weight, norm.bias
        for name, buffer in norm.named_buffers():
            setattr(made, name, buffer)
        return made.train(norm.training)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (N, C, height, width); in training, by all processes' photos."""
        if not self.training:
            return super().forward(input)
        # Also with bf16: a sum over a batch needs more digits.
        var, mean = torch.var_mean(input.float(), dim=(0, 2, 3), correction=0)
        means, variances = _FromAll.apply(torch.stack([mean, var])).unbind(1)
        mean = means.mean(0)
        # Of the parts, and between them (Chan et al. 1979). The mean of squares minus the square of
        # the mean would lose digits.
        var = variances.mean(0) + (means - mean).square().mean(0)
        with torch.no_grad():
            count = len(means) * input.numel() / self.num_features
            self.running_mean.lerp_(mean, self.momentum)  # type: ignore
            self.running_var.lerp_(var * (count / (count - 1)), self.momentum)  # type: ignore
            self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        scale = self.weight * torch.rsqrt(var + self.eps)
        shift = self.bias - mean * scale
        output: Tensor = input * scale[:, None, None] + shift[:, None, None]
        return output.to(input.dtype)


class _FromAll(torch.autograd.Function):
    """Gathers a tensor from all processes, (P, …); gradients go back to where it came from."""

    @staticmethod
    def forward(_ctx: Any, mine: Tensor) -> Tensor:
        parts = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, mine)
        return torch.stack(parts)

    @staticmethod
    def backward(_ctx: Any, *gradients: Tensor) -> Tensor:
        summed = gradients[0].contiguous()
        dist.all_reduce(summed)
        return summed[dist.get_rank()]
