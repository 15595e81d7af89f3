"""The work pools: one that trains, with a place for each GPU (or one), and one for light work."""

import glob

LIGHT_POOL = "hansang"
LIGHT_LIMIT = 4
GPU_POOL, CPU_POOL = "hansang-gpu", "hansang-cpu"


def heavy_pool(gpus: int) -> str:
    """Return the name of the pool that trains."""
    return GPU_POOL if gpus else CPU_POOL


def num_gpus() -> int:
    """Count this machine's GPUs by their devices: the driver's library is slow to load."""
    return len(glob.glob("/dev/nvidia[0-9]*"))  # noqa: PTH207
