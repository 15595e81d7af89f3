"""What this process may use of the machine, in a container as well: its control groups say it."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
"""Where the files of control groups lie."""
_MINE = Path("/proc/self/cgroup")


def num_cores() -> int:
    """Return how many cores this process may use, which may be fewer than the machine has.

    A container's share of CPU time counts as well: half a core is one, two and a half are three.
    """
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    shares = list(_cpu_shares())
    return min([cores, *(math.ceil(share) for share in shares)])


def control_groups(controller: str) -> list[Path]:
    """Return the control groups around this process, of version 2 or of a controller of version 1.

    Each is the path of its files below `/sys/fs/cgroup`; groups above bound those below.
    """
    groups = [""]
    try:
        for line in _MINE.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers or controller in controllers.split(","):
                groups.append(path.strip("/"))
    except (OSError, ValueError):
        pass  # another system
    return list(dict.fromkeys(at for group in groups for at in (Path(group), *Path(group).parents)))


def _cpu_shares() -> Iterator[float]:
    """Yield how many cores each control group allows, of those that set a limit."""
    for group in control_groups("cpu"):
        for read in (_version_2, _version_1):
            try:
                quota, period = read(group)
                if int(quota) > 0:
                    yield int(quota) / int(period)
            except (OSError, ValueError, ZeroDivisionError):  # not there, or "max"
                continue


def _version_2(group: Path) -> list[str]:
    return (CGROUP / group / "cpu.max").read_text().split()


def _version_1(group: Path) -> list[str]:
    folder = CGROUP / "cpu" / group
    return [(folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")]
