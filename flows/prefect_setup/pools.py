"""The work pools: one with a limit of 1 for each GPU (or the CPU), and one for light work."""

import glob

LIGHT_POOL = "hansang"
LIGHT_LIMIT = 4


def heavy_pools(gpus: int) -> list[str]:
    """Return the names of the pools that train: one for each GPU, or one for the CPU."""
    return [f"hansang-gpu-{number}" for number in range(gpus)] or ["hansang-cpu"]


def num_gpus() -> int:
    """Count this machine's GPUs by their devices: the driver's library is slow to load."""
    return len(glob.glob("/dev/nvidia[0-9]*"))  # noqa: PTH207
