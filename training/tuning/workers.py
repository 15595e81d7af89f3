"""Several workers of one study on this machine, each in a process of its own."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from terminal import Progress, no_progress
from training.errors import RunError, StoppedError
from training.tuning.search import outcome
from training.tuning.study import Study

_POLL_S = 1.0
_STOP_S = 60.0


def run_workers(
    arguments: Sequence[str], count: int, study: Study, *, trials: int,
    should_stop: Callable[[], bool] = lambda: False, progress: Progress = no_progress,
) -> None:  # fmt: skip
    """Run `hansang tune ARGUMENTS` in so many processes until the study has all its results.

    Their output goes to `<study>/worker-<n>.log`. If a worker dies, another continues its trial.
    All of them end with this process.

    Raises:
        StoppedError: `should_stop` said so; each trial's checkpoint is saved.
        RunError: All workers ended before the study had its results.
    """
    with started(["tune", *arguments, "--most", str(trials)], count, study.folder) as processes:
        while any(process.poll() is None for process in processes) and not should_stop():
            _show(study, trials, sum(p.poll() is None for p in processes), progress)
            time.sleep(_POLL_S)
    if study.finished(trials):
        return
    if should_stop():
        raise StoppedError("stopped; every trial's checkpoint is saved: the same command goes on")
    raise RunError(
        f"every worker ended before the study was done; why, {study.folder}/worker-*.log say."
        " The same command goes on"
    )


@contextmanager
def started(
    arguments: Sequence[str], count: int, folder: Path
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Run `hansang ARGUMENTS` in so many processes, and stop them when the block ends.

    A process that is stopped saves its checkpoint first.
    """
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for number in range(count):
            with (folder / f"worker-{number}.log").open("a") as log:
                processes.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "hansang", *arguments, "--stop-with-parent"],
                        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=log,
                    )
                )  # fmt: skip
        yield processes
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_S)
            process.kill()
            if process.stdin:
                process.stdin.close()


def _show(study: Study, trials: int, alive: int, progress: Progress) -> None:
    epochs, found = study.plan.epochs, [outcome(trial) for trial in study.trials()]
    finished = [one for one in found if one.state in ("complete", "pruned")]
    place = len(finished) * epochs
    for one in found:
        path = study.folder / one.run / "metrics.jsonl"
        if one.state == "running" and path.is_file():
            place += min(path.read_text().count("\n"), epochs)
    best = max((one.value or 0.0 for one in finished if one.state == "complete"), default=None)
    so_far = "" if best is None else f", best {best:.1%}"
    note = f"{len(finished)} of {trials} trials{so_far}, {alive} workers"
    progress(place, trials * epochs, note)
