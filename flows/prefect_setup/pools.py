"""The work pools: one place for each GPU, or for the CPU, and some for light work."""

import glob

LIGHT_POOL = "hansang"
LIGHT_LIMIT = 4


def heavy_pools(gpus: int) -> list[str]:
    """Return the pools of trainings: a GPU each; one for the CPU where there is none."""
    return [f"hansang-gpu-{number}" for number in range(gpus)] or ["hansang-cpu"]


def num_gpus() -> int:
    """Count this machine's GPUs by their devices: the driver's library is slow to load."""
    return len(glob.glob("/dev/nvidia[0-9]*"))  # noqa: PTH207
