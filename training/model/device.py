"""The device of a run: which one it is, whether it is deterministic, and how much fits on it."""

import ctypes
import os
from collections.abc import Callable
from contextlib import suppress

import torch

from training.config import TrainConfig
from training.errors import ConfigError, RunError


def device_for(name: str, local_rank: int = 0) -> torch.device:
    """Return the device for `auto` (CUDA if it can be had), `cuda` or `cpu`.

    Raises:
        ConfigError: CUDA was asked for and cannot be had, or the name is unknown.
    """
    if name not in ("auto", "cuda", "cpu"):
        raise ConfigError(f"device must be auto, cuda or cpu, not {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device cuda: torch sees no CUDA device; use --device cpu")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise ConfigError(
            f"process {local_rank} has no CUDA device: there are {torch.cuda.device_count()};"
            " start no more processes than devices"
        )
    return torch.device("cuda", local_rank)


def has_bf16(device: torch.device) -> bool:
    """Return whether a device multiplies bf16 in hardware: CUDA from Ampere on, newer server CPUs.

    Other devices emulate it, and are slower with it than in fp32.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    units = torch.cpu.get_capabilities()
    return bool(units.get("avx512_bf16") or units.get("amx_bf16"))


def precision_of(config: TrainConfig, device: torch.device) -> str:
    """Return the precision of training steps: `fp32`, `bf16` or `fp16`."""
    if config.precision != "auto":
        return config.precision
    if has_bf16(device):
        return "bf16"
    # Tensor cores came with 7.0, and with fp16 alone.
    fp16 = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (7, 0)
    return "fp16" if fp16 else "fp32"


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return a context in which a model computes in `fp32`, `bf16` or `fp16`."""
    half = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype=half, enabled=precision != "fp32")


def computing(
    config: TrainConfig, device: torch.device, threads: int, num_processes: int, compiled: str
) -> dict[str, str | int]:
    """Return what decides the bits of a run beside its settings and photos, by name."""
    if device.type == "cuda":
        name = f"cuda ({torch.cuda.get_device_name(device)})"
    else:
        units = " with AMX" if torch.cpu.get_capabilities().get("amx_bf16") else ""
        name = f"cpu ({torch.backends.cpu.get_cpu_capability()}{units})"
    return {
        "device": name,
        "precision": precision_of(config, device),
        "compiled": compiled,
        "processes": num_processes,
        "threads": threads,
        "torch": torch.__version__,
    }


def keep_freed_memory() -> None:
    """Let this process keep the memory of freed tensors, so that the next step reuses it.

    glibc returns large blocks to the system, which hands them out again page by page and zeroed: a
    tenth of a step's time on a CPU (mallopt(3)). Other C libraries are left as they are. Fragments
    that earlier runs of this process left are returned to the system first.
    """
    trim_threshold, mmap_threshold = -1, -3
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.malloc_trim(0)
        libc.mallopt(mmap_threshold, 1 << 30)
        libc.mallopt(trim_threshold, -1)


def set_determinism(deterministic: bool) -> None:
    """Make kernels give the same bits in each run, or let them be as fast as they can."""
    # cuBLAS reads this when it is first used.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    # No code here reads memory that it has not written, so filling new tensors would only cost.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.deterministic = deterministic
    # fp32 stays fp32, as in the exported file; bf16 is there for speed.
    torch.backends.cudnn.allow_tf32 = False
    # Searching for the fastest convolution may choose another one after a resume.
    torch.backends.cudnn.benchmark = not deterministic


def out_of_memory(batch_size: int, micro_batch_size: int) -> str:
    """Return the error message for a batch that does not fit the device: what to try instead."""
    smaller = max(micro_batch_size // 2, 1)
    while batch_size % smaller:
        smaller -= 1
    return (
        f"the device has no memory for {micro_batch_size} photos at a time; use --batch-size auto,"
        f" or --set micro_batch_size={smaller} under another --run: either keeps the batch of"
        f" {batch_size} by adding up gradients"
    )


def largest_micro_batch(batch_size: int, fits: Callable[[int], bool]) -> int:
    """Return the first of the batch size, its half, its quarter, … that `fits`; all are even.

    Raises:
        RunError: Not even two photos fit.
    """
    size = batch_size
    while not fits(size):
        if size % 4:
            raise RunError(
                f"the device has no memory for {size} photos at a time, and {size} cannot be halved"
                " into pairs; choose a smaller --image-size, or a --batch-size that is a power of 2"
            )
        size //= 2
    return size


def evaluation_batch(config: TrainConfig, device: torch.device, processes: int, most: int) -> int:
    """Return how many photos are validated at a time, of `most`.

    Where a micro-batch has room, as many are validated: nothing is kept for gradients.
    """
    micro_batch = config.micro_batch_size // processes or most
    # With flip averaging the model sees each photo twice.
    batch = max(min(most, micro_batch) // (1 + config.flip_average), 1)
    if device.type == "cpu":
        batch = max(min(batch, batch * 112**2 // config.image_size**2), 1)
    return batch
