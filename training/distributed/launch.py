"""Starts several processes that train one model on this machine, by `torchrun`'s launcher."""

import sys
from collections.abc import Sequence

from training.errors import ConfigError, ReportError, RunError, StoppedError


def launch(num_processes: int, arguments: Sequence[str]) -> None:
    """Run `python -m training ARGUMENTS` in so many processes, and wait until all have ended.

    Raises:
        ConfigError: The number is below 1.
        StoppedError: They were asked to stop, and saved a checkpoint.
        ReportError: All is trained, but not reported.
        RunError: One of them failed, and printed why.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    if num_processes < 1:
        raise ConfigError(f"--nproc must be 1 or more, not {num_processes}")
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_processes,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.1,
    )
    stopped = "stopped; the checkpoint is saved: the same command goes on"
    try:
        elastic_launch(config, sys.executable)("-m", "training", *arguments)
    except SignalException as error:
        raise StoppedError(stopped) from error
    except ChildFailedError as error:
        _, first = error.get_first_failure()
        if first.exitcode == StoppedError.exit_code:
            raise StoppedError(stopped) from error
        if first.exitcode == ReportError.exit_code:
            raise ReportError("no report; why stands above") from error
        raise RunError(f"process {first.local_rank} failed; what it said stands above") from error
