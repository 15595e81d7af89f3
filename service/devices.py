"""What the names of devices mean: `auto`, `cpu`, `cuda`, `cuda:1`, `cuda:0,cuda:1`, `tensorrt`."""

import ctypes
import re

_CUDA = re.compile(r"cuda(?::(\d{1,3}))?")


def problem_of(device: str) -> str:
    """Return what is wrong with a device's name; empty if nothing is."""
    if device in ("auto", "cpu", "tensorrt"):
        return ""
    numbers = _numbers(device)
    if None in numbers:
        return (
            f"device must be auto, cpu, cuda or cuda:N, several as cuda:0,cuda:1, or tensorrt,"
            f" not {device!r}"
        )
    if len(set(numbers)) < len(numbers):
        return f"device {device!r} names a GPU twice; for more runs on one, use --runs or --workers"
    return ""


def gpus_of(device: str) -> tuple[int, ...]:
    """Return the numbers of the GPUs that a valid name means, as CUDA counts them; none for `cpu`.

    >>> gpus_of("cuda:1,cuda:0"), gpus_of("cuda"), gpus_of("cpu")
    ((1, 0), (0,), ())
    """
    if device == "cpu":
        return ()
    if device in ("auto", "tensorrt"):
        return (0,)
    return tuple(number for number in _numbers(device) if number is not None)


def part_of(device: str, part: int) -> str:
    """Return the device of one of several processes: each has one of the GPUs, in turn.

    >>> [part_of("cuda:0,cuda:2", part) for part in range(3)]
    ['cuda:0', 'cuda:2', 'cuda:0']
    """
    names = device.split(",")
    return names[part % len(names)]


def num_gpus() -> int:
    """Return how many GPUs the driver sees.

    It is asked directly: loading CUDA's libraries just to find no GPU takes seconds.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def driver_cuda() -> int:
    """Return the major version of CUDA that the driver knows, such as 13; 0 without a driver."""
    version = ctypes.c_int(0)
    try:
        if ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version)) != 0:
            return 0
    except OSError:
        return 0
    return version.value // 1000


def _numbers(device: str) -> list[int | None]:
    """Return the number of each GPU that is named; None for what is no such name."""
    found = (_CUDA.fullmatch(name) for name in device.split(","))
    return [None if name is None else int(name[1] or 0) for name in found]
