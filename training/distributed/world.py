"""The processes that train one model together: their ranks, and what they exchange.

`torchrun` starts them, or `hansang train --nproc N`, which does the same. Rank 0 leads: it writes
files and prints. The run directory and the cache lie on a file system that all processes see.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from training.errors import ConfigError


@dataclass(frozen=True, slots=True)
class World:
    """One process among those that train together."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Its number on this machine, and so of its CUDA device."""

    @property
    def leads(self) -> bool:
        """Return whether this process writes files and prints."""
        return self.rank == 0

    def part(self, batch: int) -> slice:
        """Return the rows of a batch that this process computes.

        Raises:
            ConfigError: The batch cannot be divided into equal parts.
        """
        if batch % self.size:
            raise ConfigError(
                f"a batch of {batch} photos cannot be shared equally by {self.size} processes;"
                f" try --batch-size {max(batch // self.size, 1) * self.size}"
            )
        each = batch // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def share(self, value: Any) -> Any:
        """Return rank 0's value in every process; the others' are ignored."""
        if self.size == 1:
            return value
        held = [value]
        dist.broadcast_object_list(held, src=0)
        return held[0]

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in any process; all of them get the same answer."""
        if self.size == 1:
            return flag
        votes = torch.tensor([int(flag)])
        dist.all_reduce(votes, op=dist.ReduceOp.MAX, group=_on_cpu())
        return bool(votes.item())

    def sum(self, tensor: Tensor) -> Tensor:
        """Add a tensor up over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def align(self, tensors: Iterable[Tensor]) -> None:
        """Copy rank 0's values into every process's tensors, in place."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def gather(self, tensor: Tensor) -> Tensor:
        """Return the rows (N, …) of all processes in the order of their ranks; N may differ."""
        if self.size == 1:
            return tensor
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, tensor.cpu().numpy(), group=_on_cpu())
        return torch.cat([torch.from_numpy(part) for part in parts]).to(tensor.device)

    def wait(self) -> None:
        """Return when every process has called this."""
        if self.size > 1:
            dist.barrier(group=_on_cpu())


ALONE = World()
_cpu_group: Any = None


def _on_cpu() -> Any:
    # Over gloo: NCCL's group would wait for the device.
    return _cpu_group


@contextmanager
def joined(cuda: bool) -> Iterator[World]:
    """Join the processes that `torchrun` started, by its environment; without it, train alone."""
    global _cpu_group
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or not dist.is_available():
        yield ALONE
        return
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if cuda and local_rank < torch.cuda.device_count():
        # Otherwise every process would open a context on the first device as well.
        torch.cuda.set_device(local_rank)
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    _cpu_group = dist.new_group(backend="gloo")
    try:
        yield World(rank=dist.get_rank(), size=size, local_rank=local_rank)
    finally:
        _cpu_group = None
        dist.destroy_process_group()
