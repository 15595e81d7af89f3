"""Trains the jobs of a study in this process, one after the other, each an ordinary run.

Another process with the same study takes jobs off this one.
"""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from terminal import progress, say
from training.config import TrainConfig
from training.data.cache import DatasetCache
from training.data.loader import placement_of
from training.distributed.job_claims import run_jobs
from training.errors import BusyError, RunError
from training.finetuning.search import Job, config_for, is_finished
from training.loop.stopping import stop_on_signals
from training.loop.trainer import train
from training.model.pretrained import Start
from training.reports.tracking import tracked, write_report
from training.runs import run_directory
from training.runs.result import TrainResult


class Runner:
    """What all jobs of a study share; `run_all` is the executor that a search wants."""

    def __init__(
        self,
        *,
        cache: DatasetCache,
        start: Start,
        image_size: int,
        overrides: Mapping[str, Any],
        device: str = "auto",
        placement: str = "auto",
        use_features: bool = True,
        tensorboard: bool = False,
    ) -> None:
        self._cache = cache
        self._start = start
        self._image_size = image_size
        self._overrides = overrides
        self._device = device
        self._placement = placement_of(placement)
        self._use_features = use_features
        self._tensorboard = tensorboard

    def run_all(self, jobs: Sequence[Job]) -> list[TrainResult]:
        """Train what is not finished; return the results of what was trained, or went on.

        Raises:
            TrainingError: A run was stopped, or failed; the same command goes on.
        """
        results: list[TrainResult] = []
        stop = stop_on_signals()

        def run(job: Job) -> None:
            try:
                results.extend(self._done(job, f"{jobs.index(job) + 1} of {len(jobs)}", stop))
            except BusyError as error:
                if job.stage:
                    raise
                # Nobody joins a run that is alone.
                raise RunError(str(error)) from error

        run_jobs(jobs, run, stop.is_set)
        return results

    def _done(self, job: Job, place: str, stop: threading.Event) -> list[TrainResult]:
        """Train a job, unless it is finished; return its result if it was trained, or went on."""
        config = config_for(
            job.strategy, self._start, epochs=job.epochs, image_size=self._image_size,
            seed=job.seed, overrides=self._overrides,
        )  # fmt: skip
        if job.stage and is_finished(job.run_dir):
            # Whose checkpoints may be gone; but it must be this very run.
            threads = (run_directory.read(job.run_dir) or {}).get("threads", 1)
            run_directory.open_or_create(job.run_dir, config, self._cache, threads)
            return []
        where = f"{job.stage or 'run'} {place}"
        say(f"{where}: {job.strategy}, {job.epochs} epochs, seed {job.seed}: {job.run_dir}")
        start = None if job.strategy == "scratch" else self._start
        label = f"{job.stage} {job.strategy}".strip()
        with tracked(job.run_dir, tensorboard=self._tensorboard):
            result = self._train(job, config, start, label, stop)
            # Within: a tracker is sent the report as well. A trial's is made when asked for.
            if not job.stage.startswith("rung"):
                write_report(job.run_dir)
        return [result]

    def _train(
        self,
        job: Job,
        config: TrainConfig,
        start: Start | None,
        label: str,
        stop: threading.Event,
    ) -> TrainResult:
        with progress(label) as report:
            return train(
                config, self._cache, job.run_dir, device=self._device, placement=self._placement,
                start=start, use_features=self._use_features, should_stop=stop.is_set,
                progress=report,
            )  # fmt: skip
