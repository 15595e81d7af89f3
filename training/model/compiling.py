"""What `torch.compile` is used for: the last side of a run, where the run is long enough to pay.

Compiling takes half a minute for each side and each phase. So sides that only a few epochs have run
as they are, and `compile=auto` leaves short runs alone. It decides from the settings and the number
of photos, never from a measured time: a resumed run must decide the same.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from terminal import say
from training.config import TrainConfig
from training.model.stages import phases

_COMPILING_S = 40.0
"""Of each phase, which trains another part of the network. It is what `benchmarks/gpu.py` allows;
that measures it on a GPU."""
_SAVED = 0.25
"""Share of a step's time that compiling saves. Assumed; measured by the same program."""
_PHOTOS_PER_S = 10_000.0
"""Photos of 224 px that are learnt from in a second, uncompiled. A little below the aim on an H100;
slower GPUs win back more than is reckoned here."""
_LAUNCHING_S = 0.01
"""Shortest step, uncompiled: its hundreds of kernels are launched by one CPU thread. Assumed."""


def compiled_as(
    config: TrainConfig,
    device: torch.device,
    num_photos: int,
    num_processes: int = 1,
    *,
    before: Mapping[str, Any] = MappingProxyType({}),
) -> str:
    """Return how the steps of a run are compiled: `off`, `on`, or `graphs`, which only CUDA has.

    With `compile=auto` on CUDA, it is `on` where that saves more time than compiling takes, and the
    reason is said.

    Args:
        config: The settings of the run.
        device: Where it computes.
        num_photos: Those of training.
        num_processes: Those that share a batch.
        before: What computed the run until now; with more epochs it goes on as it began.
    """
    cuda = device.type == "cuda"
    if config.compile != "auto":
        return "on" if config.compile == "graphs" and not cuda else config.compile
    if not cuda:
        return "off"
    if str(before.get("device")).startswith("cuda") and "compiled" in before:
        return str(before["compiled"])
    if config.sync_batchnorm and num_processes > 1:
        say("compile: off, since torch cannot compile BatchNorm that waits for other processes")
        return "off"
    steps_s = _last_side_s(config, num_photos, num_processes)
    compiling_s = _COMPILING_S * len(phases(config))
    pays = _SAVED * steps_s > compiling_s
    found, other = ("on", "off") if pays else ("off", "on")
    say(
        f"compile: {found}, since steps of {config.size_at(config.epochs)} px take some"
        f" {steps_s:,.0f} s, of which compiling saves a quarter and takes {compiling_s:.0f};"
        f" --set compile={other} decides otherwise"
    )
    return found


def _last_side_s(config: TrainConfig, num_photos: int, num_processes: int) -> float:
    """Return the seconds that all steps of the last side would take on a fast GPU, uncompiled."""
    last = config.size_at(config.epochs)
    epochs = sum(config.size_at(epoch) == last for epoch in range(config.epochs))
    batch = min(config.batch_size, num_photos)
    step_s = batch / num_processes * (last / 224) ** 2 / _PHOTOS_PER_S
    return epochs * num_photos / batch * max(step_s, _LAUNCHING_S)


def compiled(
    function: Callable[[Tensor], Tensor], config: TrainConfig, mode: str
) -> Callable[[Tensor], Tensor]:
    """Return a function that is compiled when it is first called, with mode `on` or `graphs`."""
    import torch._dynamo.config
    import torch._inductor.config

    # Each phase is compiled, and each size of batch; torch gives up after 8 by default.
    torch._dynamo.config.recompile_limit = 64
    if hasattr(torch._inductor.config, "deterministic"):
        # Otherwise a resumed run could time kernels again and choose other ones.
        torch._inductor.config.deterministic = config.deterministic
    found: Callable[[Tensor], Tensor] = torch.compile(
        function, mode="reduce-overhead" if mode == "graphs" else "default", dynamic=False
    )
    return found


@contextmanager
def uncompiled(early: bool) -> Iterator[None]:
    """If `early`, let what is compiled run as it is: for sides that only a few epochs have.

    Compiling each of them would take half a minute, for a quarter less time in those epochs.
    """
    if not early:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
