"""What this process may use of the machine, in a container as well: its control groups say it."""

import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
"""Where the files of control groups lie."""
_STAT = Path("/proc/stat")
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


def free_cores(sample_s: float = 0.3) -> int:
    """Return how many of `num_cores` nobody computes on now, one at least; takes `sample_s`.

    Call it while this process itself computes nothing.
    """
    before = _idle_ticks()
    time.sleep(sample_s)
    spans = [
        (idle - before[core][0], total - before[core][1])
        for core, (idle, total) in _idle_ticks().items()
        if core in before
    ]
    if not spans:
        return num_cores()
    idle = sum(idle / max(total, 1) for idle, total in spans)
    return max(min(round(idle), num_cores()), 1)


def _idle_ticks() -> dict[int, tuple[int, int]]:
    """Return (idle, all) ticks of each core that this process may use; empty on another system."""
    try:
        lines = _STAT.read_text().splitlines()
        mine = os.sched_getaffinity(0)
    except (OSError, AttributeError):
        return {}
    found = {}
    for line in lines:
        name, *ticks = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in mine:
            # user, nice, system, idle, iowait, irq, softirq, steal: proc(5)
            values = [int(tick) for tick in ticks[:8]]
            found[int(name[3:])] = (values[3] + values[4], sum(values))
    return found


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
